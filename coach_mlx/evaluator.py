"""`coach evaluate`: base against tuned, on the conversations that were held out.

Reads: eval_holdout.jsonl, models/base/NAME/, adapters/NAME/ and the quantized GGUF that will be
served.
Writes: output/evaluation.jsonl (one line a result, appended, so a killed run goes on) and under
reports/ comparison_report.json, .md and .html. What is compared is the negative log-likelihood of
the coach's words a token, one number a conversation, the same tokens and the same context in every
arm.
No reply is judged here, so no result is called safe; the report says what is known of the judge.
Fails: DataError where two arms are the same file; exit 10 where the answer is "iterate".
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import console, llama_runtime, losses, mlx_runtime, report
from coach_mlx.chat_format import Encoded, encode_conversation, encode_prompt, split_conversation
from coach_mlx.config import Config
from coach_mlx.errors import DataError, ToolError
from coach_mlx.judging import look_at_weights, make_judge
from coach_mlx.passport import Standing, look_up
from coach_mlx.records import Conversation, LossRecord, ReplyRecord, content_hash
from coach_mlx.stats import PairedComparison, compare_pairs
from coach_mlx.workspace import Plan, Workspace, read_conversations, read_jsonl, stamp, write_whole

ARMS = ("base", "adapter", "gguf")
MEANING = {
    "base": "the base model, quantized as it was trained on",
    "adapter": "the base model with the LoRA adapter",
    "gguf": "the fused and quantized file that is served",
}


class Material(NamedTuple):
    """One held-out conversation: its scored parts, and the opening that every arm answers."""

    conversation: Conversation
    parts: list[Encoded]
    opening: list[dict[str, str]]
    prompt_ids: list[int]


class Arm(NamedTuple):
    """One model, opened only where something is still missing: mean loss, and reply, of a
    conversation.
    """

    name: str
    digest: str
    loss: Callable[[Material], float]
    reply: Callable[[Material], str]


def plan(config: Config, workspace: Workspace) -> Plan:
    inputs = (
        workspace.holdout,
        workspace.base_marker,
        workspace.adapter_weights,
        workspace.gguf,
        workspace.parity,
        workspace.metrics,
    )
    reports = tuple(
        workspace.reports / f"comparison_report.{kind}" for kind in ("json", "md", "html")
    )
    settings = {
        "seed": config.seed,
        "modelfile": workspace.shown(workspace.modelfile),
        "judge": _judge_known(config, workspace).say(),
    }
    return Plan(inputs, reports, {**settings, **config.evaluate.model_dump()})


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    _require_inputs(workspace)
    holdout = read_conversations(workspace.holdout)
    if len(holdout) < 2:
        raise DataError(
            f"{workspace.holdout} holds one conversation: nothing can be said about a difference."
        )
    tokenizer = mlx_runtime.open_tokenizer(workspace.base)
    material = [_material(config, tokenizer, conversation) for conversation in holdout]
    digests = _digests(workspace)
    done = _read_done(workspace)
    for arm in ARMS:
        _judge(config, workspace, arm, digests[arm], material, done)
    result = _compare(config, workspace, material, digests, done)
    console.say(result["safety"])
    report.write_comparison(result, read_jsonl(workspace.metrics), workspace.reports)
    return {key: result[key] for key in ("verdict", "reason", "passed", "comparisons", "report")}


def _require_inputs(workspace: Workspace) -> None:
    stages = {
        workspace.holdout: "dataset",
        workspace.base_marker: "import",
        workspace.adapter_weights: "train",
        workspace.gguf: "export",
        workspace.parity: "export",
    }
    for path, stage in stages.items():
        if not path.is_file():
            raise ToolError(f"There is no {path}. Type: coach {stage}")


def _digests(workspace: Workspace) -> dict[str, str]:
    base, adapter = stamp(workspace.base_marker).sha256, stamp(workspace.adapter_weights).sha256
    digests = {
        "base": base,
        "adapter": content_hash([base, adapter]),
        "gguf": stamp(workspace.gguf).sha256,
    }
    if len(set(digests.values())) < len(digests):
        raise DataError("Two of the models compared are the same file.")
    return digests


def _material(config: Config, tokenizer: Any, conversation: Conversation) -> Material:
    settings, chat = config.evaluate, conversation.chat()
    parts = [
        encode_conversation(tokenizer, part.messages, part.context)
        for part in split_conversation(
            tokenizer, chat, settings.max_seq_length, settings.context_turns
        )
    ]
    spoken = next(number for number, message in enumerate(chat) if message["role"] == "user")
    turns = min(settings.reply_turn, conversation.turns)
    opening = chat[: spoken + 2 * turns - 1]
    return Material(conversation, parts, opening, encode_prompt(tokenizer, opening))


# --- one arm after the other


def _results_file(workspace: Workspace) -> Path:
    return workspace.output / "evaluation.jsonl"


Done = dict[tuple[str, str, str], LossRecord | ReplyRecord]


def _key(record: LossRecord | ReplyRecord) -> tuple[str, str, str]:
    return record.kind, record.digest, record.conversation


def _read_done(workspace: Workspace) -> Done:
    """Results already on disk; those of other models or settings have another digest and are never
    matched.
    """
    path = _results_file(workspace)
    if not path.is_file():
        return {}
    records = [
        (LossRecord if line["kind"] == "loss" else ReplyRecord).model_validate(line)
        for line in read_jsonl(path)
    ]
    write_whole(
        path, "".join(record.model_dump_json() + "\n" for record in records)
    )  # a torn last line would stay
    return {_key(record): record for record in records}


def _judge(
    config: Config,
    workspace: Workspace,
    name: str,
    digest: str,
    material: Sequence[Material],
    done: Done,
) -> None:
    """Add what is missing of one arm to `done` and to the file."""
    digest = _bound(config, digest)
    losses = [one for one in material if ("loss", digest, one.conversation.id) not in done]
    replies = [
        one
        for one in material[: config.evaluate.replies]
        if ("reply", digest, one.conversation.id) not in done
    ]
    if not losses and not replies:
        return
    with console.spinner(f"Opening {MEANING[name]}"):
        arm = _open(config, workspace, name, digest, material)
    total = len(losses) + len(replies)
    with (
        _results_file(workspace).open("a", encoding="utf-8") as handle,
        console.progress(f"evaluate {name}", total, "results") as bar,
    ):
        for record in _records(arm, losses, replies):
            handle.write(record.model_dump_json() + "\n")
            handle.flush()
            done[_key(record)] = record
            bar.advance()


def _bound(config: Config, digest: str) -> str:
    """The model's digest tied to how it was asked, so that results never cross settings."""
    settings = config.evaluate
    return content_hash(
        [
            digest,
            settings.max_seq_length,
            settings.context_turns,
            settings.reply_turn,
            settings.reply_tokens,
        ]
    )


def _records(
    arm: Arm, losses: Sequence[Material], replies: Sequence[Material]
) -> Iterator[LossRecord | ReplyRecord]:
    for one in losses:
        targets = sum(sum(part.is_target) for part in one.parts)
        yield LossRecord(
            arm=arm.name,
            digest=arm.digest,
            conversation=one.conversation.id,
            mean_loss=arm.loss(one) / targets,
            targets=targets,
        )
    for one in replies:
        yield ReplyRecord(
            arm=arm.name,
            digest=arm.digest,
            conversation=one.conversation.id,
            said=one.opening[-1]["content"],
            reply=arm.reply(one),
        )


def _open(
    config: Config, workspace: Workspace, name: str, digest: str, material: Sequence[Material]
) -> Arm:
    tokens = config.evaluate.reply_tokens
    if name == "gguf":
        longest = max(len(part.token_ids) for one in material for part in one.parts)
        longest = max(longest, *(len(one.prompt_ids) + tokens for one in material))
        llama = llama_runtime.open_gguf(workspace.gguf, num_ctx=longest + 8)
        return Arm(
            name,
            digest,
            lambda one: sum(
                float(llama_runtime.token_losses(llama, *part).sum()) for part in one.parts
            ),
            lambda one: "".join(llama_runtime.stream_reply(llama, one.prompt_ids, tokens)).strip(),
        )
    loaded = mlx_runtime.open_model(
        workspace.base, workspace.adapter if name == "adapter" else None
    )
    return Arm(
        name,
        digest,
        lambda one: sum(losses.score(loaded.model, part) for part in one.parts),
        lambda one: "".join(
            mlx_runtime.stream_reply(loaded.model, loaded.tokenizer, one.prompt_ids, tokens)
        ).strip(),
    )


# --- what it says


def _compare(
    config: Config,
    workspace: Workspace,
    material: Sequence[Material],
    digests: dict[str, str],
    done: Done,
) -> dict[str, Any]:
    ids = [one.conversation.id for one in material]
    bound = {arm: _bound(config, digest) for arm, digest in digests.items()}
    losses = {arm: [_loss(done["loss", bound[arm], one]) for one in ids] for arm in ARMS}
    settings = config.evaluate
    comparisons = {
        f"{after} - {before}": compare_pairs(
            losses[before], losses[after], config.seed, settings.resamples
        )
        for before, after in (("base", "adapter"), ("base", "gguf"), ("adapter", "gguf"))
    }
    passed, reason = decide(
        comparisons["adapter - base"], comparisons["gguf - base"], settings.p_value
    )
    return {
        "name": config.name,
        "verdict": "deploy" if passed else "iterate",
        "passed": passed,
        "reason": reason,
        "machine": mlx_runtime.machine(),
        "safety": _safety(config, workspace),
        "arms": {arm: {"meaning": MEANING[arm], "sha256": digests[arm]} for arm in ARMS},
        "comparisons": {label: comparison._asdict() for label, comparison in comparisons.items()},
        "conversations": [
            {
                "conversation": one.conversation.id,
                "turns": one.conversation.turns,
                "targets": sum(sum(part.is_target) for part in one.parts),
                **{arm: losses[arm][number] for arm in ARMS},
            }
            for number, one in enumerate(material)
        ],
        "replies": [_replies(one, bound, done) for one in material[: settings.replies]],
        "parity": json.loads(workspace.parity.read_text(encoding="utf-8"))["checks"],
        "lineage": _lineage(workspace),
        "deploy_command": _deploy_command(config, workspace),
        "report": workspace.shown(workspace.reports / "comparison_report.html"),
    }


def _judge_known(config: Config, workspace: Workspace) -> Standing:
    judge = look_at_weights(make_judge(config, workspace), config, workspace, files_only=True)
    return look_up(workspace, judge)


def _safety(config: Config, workspace: Workspace) -> str:
    """What is known of safety: nothing here judges a reply, and of who could, how far."""
    standing = _judge_known(config, workspace)
    weak = standing.why_not_safe()
    more = f" And no result of this judge could be called safe: {weak}." if weak else ""
    return (
        "Safety is not shown: no reply was judged. "
        f"The judge: {standing.say().rstrip('.')}.{more if standing.passport else ''}"
    )


def _loss(record: LossRecord | ReplyRecord) -> float:
    assert isinstance(record, LossRecord)
    return record.mean_loss


def _replies(one: Material, digests: dict[str, str], done: Done) -> dict[str, str]:
    """What was said, and every arm's answer to it."""
    found = {"said": one.opening[-1]["content"]}
    for arm in ARMS:
        record = done["reply", digests[arm], one.conversation.id]
        assert isinstance(record, ReplyRecord)
        found[arm] = record.reply
    return found


def decide(adapter: PairedComparison, gguf: PairedComparison, p_value: float) -> tuple[bool, str]:
    """Deploy where the adapter and the served file both beat the base, neither by chance."""
    for label, found in (("adapter", adapter), ("served file", gguf)):
        if found.mean_difference >= 0:
            return (
                False,
                f"the {label}'s held-out loss is not below the base's "
                f"({found.mean_difference:+.3f})",
            )
        if found.p is None or found.p >= p_value:
            p = "unknown" if found.p is None else f"{found.p:.3f}"
            return (
                False,
                f"the {label}'s lower loss could be chance (p = {p}, needed: below {p_value:g})",
            )
    return True, (
        f"on {gguf.n} held-out conversations the served file finds the coach's words likelier than "
        "the base does: "
        f"{gguf.mean_difference:+.3f} nats a token, p = {gguf.p:.2g}"
    )


def _deploy_command(config: Config, workspace: Workspace) -> str:
    modelfile = workspace.shown(workspace.modelfile)
    return f"ollama create {config.name} -f {modelfile} && ollama run {config.name}"


def _lineage(workspace: Workspace) -> list[dict[str, Any]]:
    """The chain from conversations to the served file: what each complete stage read and wrote, by
    hash.
    """
    manifests = [
        workspace.manifest(stage) for stage in ("dataset", "import", "train", "fuse", "export")
    ]
    return [
        {
            "stage": manifest.stage,
            "inputs": {path: found.sha256[:12] for path, found in manifest.inputs.items()},
            "outputs": {path: found.sha256[:12] for path, found in manifest.outputs.items()},
        }
        for manifest in manifests
        if manifest
    ]
