"""What is lost between the adapter that was trained and the file that is served, on a real model.

An adapter trained on a 4-bit base, added to the base's own weights or to those of the
16-bit original, and exported. The original is SmolLM2-135M out of the package, dequantized to
float16: a real model, whose weights stand on a 4-bit grid of groups of 32 already. So one case has
each weight moved at random within its step of that grid, as the weights of a 16-bit model are
spread. Each base is its original quantized by MLX to 4 bits in groups of 64, the adapter trained on
it for 30 steps of at most 384 tokens under a system prompt of one sentence, so that most of them
are learned from. Loss is that of the coach's words in held-out conversations (their first part of
at most 512 tokens), KL the divergence of an arm's next-token distribution from the trained
adapter's, at those words; both mean over conversations.

Run: .venv/bin/python benchmarks/fuse.py [FOLDER]
What is trained stays in the folder, where one is named, and is not trained again.
"""

import gc
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import dataset, fuse, gguf_file, importer, llama_runtime, mlx_runtime, stats, trainer
from coach_mlx.chat_format import Encoded, encode_conversation, split_conversation
from coach_mlx.config import Config, load_config
from coach_mlx.workspace import PROJECT, Workspace, read_conversations

ROUTES = ("quantized", "original")
FORMATS = ("f16", "q8_0", "q4_k_m")
TOKENS = 512
RESAMPLES = 10_000


class Case(NamedTuple):
    name: str
    spread: bool
    settings: tuple[str, ...]


CASES = (
    Case("rank 8", False, ("seed=2", "train.rank=8")),
    Case("rank 8, an original off the grid", True, ("seed=2", "train.rank=8")),
    Case("rank 16, another seed", False, ("seed=3", "train.rank=16")),
)


class Row(NamedTuple):
    """One arm: mean loss and KL of each conversation, (N,)."""

    losses: list[float]
    kl: list[float]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def make_original(folder: Path, spread: bool) -> None:
    """The packaged model in float16, in a folder of its own."""
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model

    config = load_config(None, ["name=bench", "base.model=smollm2"])
    workspace = Workspace(folder / "packaged", config)
    importer.run(config, workspace)
    model, facts = mlx_runtime.open_weights(workspace.base, as_stored=True)
    scales = {name: one.scales for name, one in model.named_modules() if "scales" in one}
    dequantize_model(model)
    mx.random.seed(1)
    for name, layer in model.named_modules():
        if spread and name in scales:
            steps = mx.repeat(mx.abs(scales[name]), 32, axis=1)  # (out, in)
            layer.weight = layer.weight + steps * (mx.random.uniform(shape=steps.shape) - 0.5)
    target = folder / "original"
    shutil.copytree(workspace.base, target, ignore=shutil.ignore_patterns("*.safetensors", "im*"))
    fuse._save(model, facts, "float16", target, "quantized")


def prepare(folder: Path, case: Case) -> tuple[Config, Workspace]:
    """An adapter trained on the quantized base, and what was held out."""
    prompt = folder / "prompt.md"
    prompt.write_text("You are a warm and attentive self-care coach.", encoding="utf-8")
    source = folder / "original"
    if not source.is_dir():
        make_original(folder, case.spread)
    config = load_config(
        PROJECT / "config" / "demo.yaml",
        [
            "name=routes",
            f"base.model={source}",
            f"dataset.system_prompt={prompt}",
            "dataset.holdout_fraction=0.25",
            "train.steps=30",
            "train.max_seq_length=384",
            "train.context_turns=0",
            "train.validation_fraction=0",
            *case.settings,
        ],
    )
    workspace = Workspace(folder, config)
    if not workspace.adapter_weights.is_file():
        for stage in (dataset, importer, trainer):
            stage.run(config, workspace)
    return config, workspace


def held_out(workspace: Workspace) -> list[Encoded]:
    tokenizer = mlx_runtime.open_tokenizer(workspace.base)
    found = []
    for one in read_conversations(workspace.holdout):
        part = next(iter(split_conversation(tokenizer, one.chat(), TOKENS, 1)))
        found.append(encode_conversation(tokenizer, part.messages, part.context))
    return found


def mlx_logits(model: Any, parts: Sequence[Encoded]) -> Iterator[Any]:
    """Log-probabilities (K, V) before each of the coach's words, conversation after
    conversation.
    """
    import mlx.core as mx
    import numpy as np

    for part in parts:
        logits = model(mx.array([part.token_ids]))[0]  # (T, V)
        places = [place - 1 for place, target in enumerate(part.is_target) if target]
        chosen = logits[mx.array(places)].astype(mx.float32)
        yield np.array(chosen - mx.logsumexp(chosen, axis=-1, keepdims=True))


def gguf_logits(path: Path, parts: Sequence[Encoded]) -> Iterator[Any]:
    """On one thread: several spin while they wait for each other, and a busy machine has none to
    spare.
    """
    import numpy as np

    llama = llama_runtime.library().Llama(
        str(path), n_ctx=TOKENS + 64, n_threads=1, n_threads_batch=1, verbose=False
    )
    for part in parts:
        rows = list(llama_runtime.target_logits(llama, *part))
        yield np.stack([row - np.logaddexp.reduce(row) for row in rows])
    llama.close()


def measure(logits: Iterator[Any], parts: Sequence[Encoded], reference: Sequence[Any]) -> Row:
    import numpy as np

    row = Row([], [])
    for part, found, other in zip(parts, logits, reference, strict=True):
        words = [token for token, target in zip(*part, strict=True) if target]
        row.losses.append(float(-found[np.arange(len(words)), words].mean()))
        row.kl.append(float((np.exp(other) * (other - found)).sum(axis=1).mean()))
    return row


def measure_case(folder: Path, case: Case) -> dict[str, Row]:
    config, workspace = prepare(folder, case)
    parts = held_out(workspace)
    count = sum(sum(part.is_target) for part in parts)
    say(f"\n{case.name}: {len(parts)} conversations held out, {count} of the coach's tokens")
    tuned, _ = mlx_runtime.open_weights(workspace.base, workspace.adapter)
    reference = list(mlx_logits(tuned, parts))
    rows = {"adapter on its base (MLX)": measure(iter(reference), parts, reference)}
    plain, _ = mlx_runtime.open_weights(workspace.base)
    rows["base without it (MLX)"] = measure(mlx_logits(plain, parts), parts, reference)
    del tuned, plain
    gc.collect()
    for route in ROUTES:
        for kind, path in exported(folder, config, workspace, route):
            rows[f"{route}, {kind}"] = measure(gguf_logits(path, parts), parts, reference)
    return rows


def exported(
    folder: Path, config: Config, workspace: Workspace, route: str
) -> Iterator[tuple[str, Path]]:
    chosen = config.model_copy(update={"fuse": config.fuse.model_copy(update={"onto": route})})
    fuse.run(chosen, workspace)
    tokenizer = mlx_runtime.open_tokenizer(workspace.fused)
    half = folder / f"{route}-f16.gguf"
    gguf_file.write_model(workspace.fused, tokenizer, Config(), "F16", half)
    yield "f16", half
    for kind in FORMATS[1:]:
        target = folder / f"{route}-{kind}.gguf"
        llama_runtime.quantize(half, target, kind)
        yield kind, target


def show(rows: dict[str, Row]) -> None:
    import numpy as np

    say("\n| arm | loss | KL |")
    say("|---|---|---|")
    for name, row in rows.items():
        say(f"| {name} | {np.mean(row.losses):.4f} | {np.mean(row.kl):.4f} |")
    say("\n| original - quantized | loss | 95 % | p | KL | 95 % |")
    say("|---|---|---|---|---|---|")
    for kind in FORMATS:
        before, after = (rows[f"{route}, {kind}"] for route in ROUTES)
        rng = np.random.default_rng(1)
        loss = stats.compare_paired(before.losses, after.losses, rng, RESAMPLES)
        kl = stats.compare_paired(before.kl, after.kl, rng, RESAMPLES)
        say(f"| {kind} | {difference(loss)} | {loss.p_t:.2g} | {difference(kl)} |")


def difference(found: stats.PairedDifference) -> str:
    return f"{found.difference:+.4f} | {found.low:+.4f} to {found.high:+.4f}"


def routes(place: Path) -> None:
    for number, case in enumerate(CASES):
        folder = place / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        show(measure_case(folder, case))
    say(mlx_runtime.machine())


def main() -> None:
    mlx_runtime.prepare()
    with tempfile.TemporaryDirectory() as folder:
        routes(Path(sys.argv[1] if len(sys.argv) > 1 else folder))


if __name__ == "__main__":
    main()
