"""What a training needs at its busiest moment: the plan against the measured peak, and for Macs.

`measure`: one step of the loop on the demo's longest batch, on random models with the shapes of
Qwen2.5-0.5B and Llama 3.2-1B, and on a small one with a GPU's types; at most 8 GB and some fifteen
minutes on two cores. `macs`: settings that
fit 7B and 8B models on Macs, computed from shapes and never measured on a Mac; some seconds.

Run: .venv/bin/python benchmarks/memory.py measure|macs
"""

import importlib
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

from coach_mlx import dataset, importer, lora, memory_fit, mlx_runtime, training_loop
from coach_mlx.batches import Row, make_batches, passes
from coach_mlx.chat_format import Encoded
from coach_mlx.config import TrainSection, load_config
from coach_mlx.memory_plan import Facts, Load, facts_of, need
from coach_mlx.workspace import PROJECT, Workspace, read_conversations

QWEN_HALF = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
LLAMA_ONE = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
QWEN_SEVEN = {
    **QWEN_HALF,
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
LLAMA_EIGHT = {
    **LLAMA_ONE,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "intermediate_size": 14336,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
SMALL = {
    "hidden_size": 256,
    "num_hidden_layers": 10,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "vocab_size": 1024,
}
RUNS = ((256, 8, False), (256, 16, True), (512, 8, False), (512, 16, True), (1024, 8, True))
"""Tokens, layers, grad_checkpoint."""
LENGTHS, LAYERS, RANKS, BATCHES = (4096, 2048, 1024, 512), (-1, 16, 8), (32, 16, 8), (4, 2, 1)
"""Of the starting points for Macs, the best first."""
MARGIN = 1.25
"""They fit even where the plan is too low by as much as it may be."""


def a_model(shape: dict[str, Any]) -> Any:
    """Random, and lazy until somebody looks."""
    module = importlib.import_module(f"mlx_lm.models.{shape['model_type']}")
    return module.Model(module.ModelArgs.from_dict(shape))


def quantized(shape: dict[str, Any]) -> Any:
    """As `coach import` makes it; shapes only, nothing is computed."""
    import mlx.core as mx
    import mlx.nn as nn

    model = a_model(shape)
    model.set_dtype(mx.bfloat16)
    nn.quantize(model, group_size=64, bits=4)
    return model


def measured(model: Any, settings: TrainSection, rows: list[Row]) -> int:
    """The peak of one step as the loop makes it, bytes."""
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten

    lora.attach(model, settings)
    model.train()
    optimizer = optim.AdamW(learning_rate=1e-4)
    optimizer.init(model.trainable_parameters())
    for _, array in tree_flatten(model.parameters()):
        mx.eval(array)
    mx.eval(optimizer.state)
    mx.reset_peak_memory()
    targets = sum(sum(row.encoded.is_target) for row in rows)
    _, gradients = training_loop.gradients_of(model, [rows], targets)
    optimizer.update(model, gradients)
    mx.eval(model.trainable_parameters(), optimizer.state)
    return int(mx.get_peak_memory())


def compare(
    name: str, model: Any, settings: TrainSection, rows: list[Row], kind: str = "cpu"
) -> None:
    load = Load.of(rows)
    facts = facts_of(model, kind)
    computed, base = need(facts, settings, load).peak, facts.base_bytes
    found = measured(model, settings, rows)
    recomputed = "recomputed" if settings.grad_checkpoint else "kept"
    sys.stdout.write(
        f"| {name} | {load.rows} x {load.tokens} | {load.targets} | {settings.layers} layers "
        f"{recomputed}, rank {settings.rank} | {computed / 1e9:.3f} | {found / 1e9:.3f} "
        f"| {computed / found:.2f} | {(computed - base) / (found - base):.2f} |\n"
    )
    sys.stdout.flush()


def compare_demo() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(PROJECT / "config" / "demo.yaml")
        workspace = Workspace(Path(folder), config)
        dataset.run(config, workspace)
        importer.run(config, workspace)
        conversations = read_conversations(workspace.training_data)
        for recomputed in (False, True):
            settings = config.train.model_copy(update={"grad_checkpoint": recomputed})
            loaded = mlx_runtime.open_model(workspace.base)
            batches = make_batches(loaded.tokenizer, conversations, settings, config.seed)
            pieces = [rows for batch in batches.training for rows in passes(batch)]
            longest = max(pieces, key=lambda rows: rows[-1].length)
            compare("demo, SmolLM2-135M", loaded.model, settings, longest)


def compare_random(name: str, shape: dict[str, Any]) -> None:
    for tokens, layers, recomputed in RUNS:
        settings = TrainSection(layers=layers, grad_checkpoint=recomputed)
        compare(name, a_model(shape), settings, [a_row(tokens)])


def compare_quantized() -> None:
    """A GPU's types, 4-bit weights and 16-bit activations, on the CPU: slow, hence small."""
    small = {**QWEN_HALF, **SMALL}
    for recomputed in (False, True):
        settings = TrainSection(layers=8, grad_checkpoint=recomputed)
        compare("small, 4 bits", quantized(small), settings, [a_row(256)], "metal")


def a_row(tokens: int) -> Row:
    """Half of it is the coach's."""
    spoken = Encoded([5] * tokens, [place >= tokens // 2 for place in range(tokens)])
    return Row(spoken, 1, None)


def measure() -> None:
    sys.stdout.write(f"{mlx_runtime.machine()}\n\n")
    sys.stdout.write(
        "| model | rows x tokens | targets | blocks | computed GB | measured GB | ratio "
        "| without the base |\n|---|---|---|---|---|---|---|---|\n"
    )
    compare_demo()
    compare_random("0.5B, Qwen2.5's shape", QWEN_HALF)
    compare_random("1B, Llama 3.2's shape", LLAMA_ONE)
    compare_quantized()


def of_length(tokens: int, batch_size: int) -> Load:
    """Half of the tokens are the coach's."""
    return Load(batch_size, tokens, batch_size * tokens // 2)


def best_settings(facts: Facts, limit: int) -> tuple[TrainSection, int] | None:
    """The longest parts that fit, then the most blocks, rank and rows."""
    for tokens, layers, rank, rows in itertools.product(LENGTHS, LAYERS, RANKS, BATCHES):
        settings = TrainSection(
            max_seq_length=tokens, layers=layers, rank=rank, batch_size=rows, grad_checkpoint=True
        )
        peak = need(facts, settings, of_length(tokens, rows)).peak
        if peak * MARGIN <= limit:
            return settings, peak
    return None


def macs() -> None:
    models = {"Qwen2.5-7B": QWEN_SEVEN, "Llama 3.1 8B": LLAMA_EIGHT}
    facts = {name: facts_of(quantized(shape), "metal") for name, shape in models.items()}
    sys.stdout.write(
        "Computed, never measured on a Mac. 4 bits, group 64, grad_checkpoint on.\n\n"
        "| Mac | for the GPU | model | max_seq_length | layers | rank | batch_size | needs |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    for gigabytes, (name, known) in itertools.product((16, 24, 32, 64), facts.items()):
        limit = memory_fit.a_mac(gigabytes).limit
        found = best_settings(known, limit)
        cells = ["none fits", "", "", "", ""]
        if found:
            chosen, peak = found
            values = (chosen.max_seq_length, chosen.layers, chosen.rank, chosen.batch_size)
            cells = [*map(str, values), f"{peak / 1e9:.1f} GB"]
        line = [f"{gigabytes} GB", f"{limit / 1e9:.1f} GB", name, *cells]
        sys.stdout.write(f"| {' | '.join(line)} |\n")
    show_lengths(facts)


def show_lengths(facts: dict[str, Facts]) -> None:
    lengths = LENGTHS[::-1]
    sys.stdout.write(
        f"\n16 blocks, rank 16, one row:\n\n| model | {' | '.join(map(str, lengths))} tokens |\n"
        f"|{'---|' * (1 + len(lengths))}\n"
    )
    for name, known in facts.items():
        settings = TrainSection(layers=16, rank=16)
        peaks = [need(known, settings, of_length(tokens, 1)).peak for tokens in lengths]
        sizes = " | ".join(f"{peak / 1e9:.1f} GB" for peak in peaks)
        sys.stdout.write(f"| {name} | {sizes} |\n")


if __name__ == "__main__":
    mlx_runtime.prepare()
    {"measure": measure, "macs": macs}[sys.argv[1]]()
