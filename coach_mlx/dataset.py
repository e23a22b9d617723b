"""`coach dataset`: conversations become what is trained on and what is held out.

Reads: `dataset.conversations` or output/conversations.jsonl, the verdicts on them in
output/assessments.jsonl where there are any, and what the detectors compare with; or, where
output/training_data.jsonl was put there by hand, that file alone.
Writes: training_data.jsonl and eval_holdout.jsonl, each line `{"messages": [...]}` under the system
prompt, and DATASET_CARD.md. The order of the input's lines does not matter to any of them.
Fails: DataError naming every wrong line, where too little is left (with the reasons), and where
anything held out is trained on as well. A file that this stage did not write is never overwritten,
except the card: training data that has to be split is kept whole beside it.

Every conversation that came in is in one of the two files or counted under one reason.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from coach_mlx import console, crisis
from coach_mlx.config import Config
from coach_mlx.dataset_card import Facts, count_tokens, render
from coach_mlx.errors import DataError
from coach_mlx.holdout import Split, hold_out, split
from coach_mlx.leaks import Leaks, check_leaks, describe, find_leaks
from coach_mlx.records import Conversation, Verdict, content_hash
from coach_mlx.rubric import RUBRIC, load_rubric
from coach_mlx.selection import EXACT, NOT_JUDGED, drop_copies, select
from coach_mlx.talk import Known
from coach_mlx.verdicts import PERSON, read_verdicts
from coach_mlx.workspace import (
    Plan,
    Workspace,
    is_same,
    read_conversations,
    read_system_prompt,
    write_whole,
)


def plan(config: Config, workspace: Workspace) -> Plan:
    """The tokenizer is no input: a base that is imported later must not make new data."""
    outputs = (workspace.training_data, workspace.holdout, workspace.dataset_card)
    if _given_by_hand(workspace):
        return Plan((), outputs, {"given": True})
    inputs = [
        _source(config, workspace),
        workspace.find(config.dataset.system_prompt),
        workspace.find(crisis.DIRECTORY),
        workspace.find(RUBRIC),
    ]
    if workspace.assessments.exists():
        inputs.append(workspace.assessments)
    return Plan(tuple(inputs), outputs, {"seed": config.seed, **config.dataset.model_dump()})


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    if _given_by_hand(workspace):
        return {"given": True, **_take_given(config, workspace)}
    source = _source(config, workspace)
    if not source.is_file():
        raise DataError(
            f"There is no {source}. Write conversations with `coach generate`, or put your own "
            'there, one {"messages": [...]} a line, or try the demo: '
            "coach run --config config/demo.yaml"
        )
    prompt = read_system_prompt(workspace.find(config.dataset.system_prompt))
    conversations = [one.with_system(prompt) for one in read_conversations(source)]
    verdicts = _verdicts_on(conversations, workspace)
    known = crisis.load_known(config, workspace)
    chosen = choose(conversations, verdicts, known, config)
    if chosen.dropped:
        console.say(_left_out(len(conversations), chosen.dropped))
    leaks = check_leaks(chosen.training, chosen.holdout, config.dataset.near_duplicate)
    _refuse_a_lone_holdout(workspace, chosen.holdout)
    facts = _facts(config, workspace, conversations, chosen, verdicts, leaks)
    return {"given": False, **_write(workspace, facts)}


def _verdicts_on(
    conversations: Sequence[Conversation], workspace: Workspace
) -> list[Verdict] | None:
    """The verdicts, `None` where nothing was judged. Raises: DataError where all that was judged is
    something else.
    """
    verdicts, name = read_verdicts(workspace), workspace.shown(workspace.assessments)
    if verdicts is None:
        console.say(
            f"Nothing was judged: there is no {name}. The detectors alone decide what is used. To "
            "judge: coach assess"
        )
    elif verdicts and not {one.conversation for one in verdicts} & {
        one.id for one in conversations
    }:
        raise DataError(
            f"{name} holds verdicts on other conversations only. Judge these with: coach assess. "
            "Or, to go without a judge, move that file away."
        )
    older = _of_another_rubric(verdicts or (), workspace)
    if older:
        console.say(f"{older} verdicts in {name} were made by another rubric than the present one.")
    return verdicts


def _of_another_rubric(verdicts: Sequence[Verdict], workspace: Workspace) -> int:
    present = load_rubric(workspace.find(RUBRIC)).digest
    return sum(one.rubric != present and not one.judge.startswith(PERSON) for one in verdicts)


def _source(config: Config, workspace: Workspace) -> Path:
    name = config.dataset.conversations
    return workspace.conversations if name is None else workspace.find(name)


def _is_ours(workspace: Workspace, path: Path) -> bool:
    manifest = workspace.manifest("dataset")
    ours = {} if manifest is None or manifest.result.get("given") else manifest.outputs
    return workspace.shown(path) in ours and is_same(path, ours[workspace.shown(path)])


def _given_by_hand(workspace: Workspace) -> bool:
    """Whether there is training data, and it or the holdout is not what this stage wrote."""
    return workspace.training_data.exists() and any(
        path.exists() and not _is_ours(workspace, path)
        for path in (workspace.training_data, workspace.holdout)
    )


def _refuse_a_lone_holdout(workspace: Workspace, holdout: Sequence[Conversation]) -> None:
    """A holdout without training data is what a kill between two renames leaves, and then it is
    this one; or somebody's own.
    """
    path = workspace.holdout
    if path.exists() and not _is_ours(workspace, path) and path.read_bytes() != _lines(holdout):
        raise DataError(
            f"{path} has no training_data.jsonl beside it, and this stage did not write it. Put "
            "its training data there, or move it somewhere else."
        )


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
        return _check(config, workspace, conversations)
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
    return _split_given(config, workspace, conversations)


def _compare_prompts(conversations: Sequence[Conversation], served: str) -> None:
    other = sum(one.messages[0].content != served for one in conversations)
    if other:
        console.say(
            f"{other} of {len(conversations)} conversations do not begin with the system prompt "
            "that will be served. "
            "Set dataset.system_prompt to the file with theirs, so that training and serving agree."
        )


def _check(
    config: Config, workspace: Workspace, training: Sequence[Conversation]
) -> dict[str, Any]:
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
    parts = Split(list(training), holdout, Counter())
    facts = _given_facts(config, workspace, [*training, *holdout], parts)
    write_whole(workspace.dataset_card, render(facts))
    return _result(facts)


def _split_given(
    config: Config, workspace: Workspace, conversations: Sequence[Conversation]
) -> dict[str, Any]:
    """Nothing but exact duplicates is left out of what a person chose."""
    settings = config.dataset
    unique = drop_copies(conversations)
    holdout = hold_out(unique, settings.holdout_fraction, settings.min_holdout, config.seed)
    held = {one.id for one in holdout}
    training = [one for one in unique if one.id not in held]
    dropped = +Counter({EXACT: len(conversations) - len(unique)})
    parts = Split(training, holdout, dropped)
    return _write(workspace, _given_facts(config, workspace, conversations, parts))


def _given_facts(
    config: Config, workspace: Workspace, conversations: Sequence[Conversation], parts: Split
) -> Facts:
    leaks = find_leaks(parts.training, parts.holdout, config.dataset.near_duplicate)
    found = describe(leaks)
    if found:
        console.say(
            f"The holdout is not quite new to the model: {found}. The data was put there by hand "
            "and is used as it is; expect figures that are a little too good."
        )
    return _facts(config, workspace, conversations, parts, None, leaks, given=True)


def _facts(
    config: Config,
    workspace: Workspace,
    conversations: Sequence[Conversation],
    parts: Split,
    verdicts: Sequence[Verdict] | None,
    leaks: Leaks,
    given: bool = False,
) -> Facts:
    prompt = read_system_prompt(workspace.find(config.dataset.system_prompt))
    return Facts(
        config=config,
        given=given,
        came_in=conversations,
        training=parts.training,
        holdout=parts.holdout,
        dropped=parts.dropped,
        verdicts=verdicts,
        leaks=leaks,
        tokens=count_tokens(parts.training, workspace.base),
        holdout_tokens=count_tokens(parts.holdout, workspace.base),
        prompt_hash=content_hash(prompt)[:12],
    )


def _write(workspace: Workspace, facts: Facts) -> dict[str, Any]:
    """The holdout first: training data without one would be taken for somebody's own."""
    write_whole(workspace.holdout, _lines(facts.holdout).decode())
    write_whole(workspace.training_data, _lines(facts.training).decode())
    write_whole(workspace.dataset_card, render(facts))
    return _result(facts)


def _lines(conversations: Iterable[Conversation]) -> bytes:
    return "".join(one.training_line() + "\n" for one in conversations).encode()


def _result(facts: Facts) -> dict[str, Any]:
    topics = Counter(one.scenario.topic for one in facts.holdout if one.scenario)
    return {
        "training": len(facts.training),
        "holdout": len(facts.holdout),
        "turns": sum(one.turns for one in facts.training),
        "holdout_topics": dict(sorted(topics.items())),
        "duplicates": facts.dropped[EXACT],
        "dropped": dict(sorted(facts.dropped.items())),
        "judged": facts.verdicts is not None,
        "tokens": facts.tokens._asdict(),
        "similarity": {
            "highest_across": round(facts.leaks.highest, 4),
            "every_pair": facts.leaks.every_pair,
        },
    }


def choose(
    conversations: Sequence[Conversation],
    verdicts: Sequence[Verdict] | None,
    known: Known,
    config: Config,
) -> Split:
    """The filters, then the split; each conversation is in one side or under one reason. Raises:
    DataError that counts the reasons.
    """
    kept, dropped = select(conversations, verdicts, known, config.dataset.near_duplicate)
    try:
        parts = split(kept, config)
    except DataError as error:
        raise DataError(f"{error}\n{_left_out(len(conversations), dropped)}") from None
    return parts._replace(dropped=dropped + parts.dropped)


def _left_out(count: int, dropped: Counter[str]) -> str:
    """How many, why, and what to type next about reasons that a command can change."""
    if not dropped:
        return f"No filter stopped any of the {count} conversations."
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped.items()))
    said = f"Left out {dropped.total()} of {count} conversations: {reasons}."
    if dropped[NOT_JUDGED]:
        said += " output/assessments.jsonl has no verdict on those not judged."
    if 2 * (dropped.total() - dropped[NOT_JUDGED]) > count:
        said += " `coach generate` writes more."
    return said
