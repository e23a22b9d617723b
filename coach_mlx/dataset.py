"""`coach dataset`: conversations become what is trained on and what is held out.

Reads: `dataset.conversations`, or, where output/training_data.jsonl was put there by hand, that
file.
Writes: training_data.jsonl and eval_holdout.jsonl, each line `{"messages": [...]}` under the system
prompt.
Fails: DataError naming every wrong line, and where a held-out conversation is trained on as well. A
file that this stage did not write is never overwritten: training data that has to be split is kept
whole beside it.
"""

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

from coach_mlx import console
from coach_mlx.config import Config
from coach_mlx.errors import DataError
from coach_mlx.records import Conversation
from coach_mlx.workspace import (
    Plan,
    Workspace,
    is_same,
    read_conversations,
    read_system_prompt,
    write_whole,
)


def plan(config: Config, workspace: Workspace) -> Plan:
    outputs = (workspace.training_data, workspace.holdout)
    if _given_by_hand(workspace):
        return Plan((), outputs, {"given": True})
    inputs = (
        workspace.find(config.dataset.conversations),
        workspace.find(config.dataset.system_prompt),
    )
    return Plan(inputs, outputs, {"seed": config.seed, **config.dataset.model_dump()})


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    if _given_by_hand(workspace):
        return {"given": True, **_take_given(config, workspace)}
    source = workspace.find(config.dataset.conversations)
    if not source.is_file():
        raise DataError(
            f'There is no {source}. Put your conversations there, one {{"messages": [...]}} a '
            "line, "
            "or try the demo: coach run --config config/demo.yaml"
        )
    prompt = read_system_prompt(workspace.find(config.dataset.system_prompt))
    conversations = [
        conversation.with_system(prompt) for conversation in read_conversations(source)
    ]
    return {"given": False, **_split(config, workspace, conversations)}


def _given_by_hand(workspace: Workspace) -> bool:
    """Whether one of the two files is there and is not the one this stage wrote."""
    manifest = workspace.manifest("dataset")
    ours = {} if manifest is None or manifest.result.get("given") else manifest.outputs
    for path in (workspace.training_data, workspace.holdout):
        if path.exists() and not (
            workspace.shown(path) in ours and is_same(path, ours[workspace.shown(path)])
        ):
            return True
    return False


def _take_given(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Training data as it was put there; without a holdout beside it, part of it becomes the
    holdout.
    """
    kept = workspace.training_data.with_name("training_data.original.jsonl")
    split_before = (
        kept.exists() and workspace.manifest("dataset") is None
    )  # a kill between two renames
    conversations = read_conversations(kept if split_before else workspace.training_data)
    _compare_prompts(
        conversations, read_system_prompt(workspace.find(config.dataset.system_prompt))
    )
    if workspace.holdout.exists() and not split_before:
        return _check(workspace, conversations)
    if kept.exists() and not split_before:
        raise DataError(
            f"{workspace.training_data} has no eval_holdout.jsonl beside it and must be split, "
            f"but {kept} is in the way. Move that file somewhere else."
        )
    if not split_before:
        beside = kept.with_name(kept.name + ".partial")
        shutil.copyfile(workspace.training_data, beside)
        beside.replace(kept)
    console.say(
        f"There is no {workspace.holdout}: part of the training data is held out. All of it stays "
        f"in {kept}."
    )
    return _split(config, workspace, conversations)


def _compare_prompts(conversations: Sequence[Conversation], served: str) -> None:
    other = sum(one.messages[0].content != served for one in conversations)
    if other:
        console.say(
            f"{other} of {len(conversations)} conversations do not begin with the system prompt "
            "that will be served. "
            "Set dataset.system_prompt to the file with theirs, so that training and serving agree."
        )


def _check(workspace: Workspace, training: Sequence[Conversation]) -> dict[str, Any]:
    holdout = read_conversations(workspace.holdout)
    trained = {conversation.id for conversation in training}
    leaks = [number for number, one in enumerate(holdout, start=1) if one.id in trained]
    if leaks:
        raise DataError(
            f"{len(leaks)} of {len(holdout)} conversations of {workspace.holdout} are trained on "
            "as well "
            f"(conversations {', '.join(map(str, leaks[:20]))}). Delete that file, and a new part "
            "is held out."
        )
    return _counts(training, holdout)


def _split(
    config: Config, workspace: Workspace, conversations: Sequence[Conversation]
) -> dict[str, Any]:
    unique = list({conversation.id: conversation for conversation in conversations}.values())
    holdout = hold_out(
        unique, config.dataset.holdout_fraction, config.dataset.min_holdout, config.seed
    )
    held = {conversation.id for conversation in holdout}
    training = [conversation for conversation in unique if conversation.id not in held]
    for path, lines in ((workspace.holdout, holdout), (workspace.training_data, training)):
        write_whole(path, "".join(one.training_line() + "\n" for one in lines))
    return {**_counts(training, holdout), "duplicates": len(conversations) - len(unique)}


def _counts(training: Sequence[Conversation], holdout: Sequence[Conversation]) -> dict[str, Any]:
    topics = Counter(one.scenario.topic for one in holdout if one.scenario)
    return {
        "training": len(training),
        "holdout": len(holdout),
        "turns": sum(one.turns for one in training),
        "holdout_topics": dict(sorted(topics.items())),
    }


def hold_out(
    conversations: Sequence[Conversation], fraction: float, at_least: int, seed: int
) -> list[Conversation]:
    """The held-out conversations: every topic within one of its share, difficulties as even as that
    allows.

    One after the other is taken from the topic that lacks most and, in it, the difficulty that
    lacks most.

    Raises: DataError where nothing would be left to train on.
    """
    count = max(at_least, round(fraction * len(conversations)))
    if count >= len(conversations):
        raise DataError(
            f"{len(conversations)} conversations are too few to hold out {count} and train on the "
            "rest. "
            "Add conversations, or lower dataset.min_holdout."
        )
    strata = {
        one.id: (one.scenario.topic, one.scenario.difficulty) if one.scenario else ("", "")
        for one in conversations
    }
    lacking: Counter[str] = Counter()  # in units of 1 / len(conversations), so that it stays exact
    for stratum in strata.values():
        lacking.update({part: count for part in stratum})
    left = sorted(conversations, key=lambda one: one.id)
    random.Random(seed).shuffle(left)
    taken = []
    for _ in range(count):
        best = max(left, key=lambda one: tuple(lacking[part] for part in strata[one.id]))
        left.remove(best)
        taken.append(best)
        lacking.subtract({part: len(conversations) for part in strata[best.id]})
    return taken
