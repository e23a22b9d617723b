"""Everything a GGUF file says besides its weights: the model, its tokenizer, where it comes from.

Reads a model folder. `coach export` writes this, and `coach verify` compares a file with it.
"""

from pathlib import Path
from typing import Any

from coach_mlx import gguf_architecture, gguf_vocabulary, model_facts, turn_shapes
from coach_mlx.config import Config
from coach_mlx.errors import DataError

FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
QUANTIZER_KEYS = ("general.file_type", "general.quantization_version")
"""What llama.cpp's quantizer writes anew."""


def describe(folder: Path, tokenizer: Any, config: Config, type_: str) -> dict[str, Any]:
    """GGUF key and value; `type_` is what the weights are written in."""
    model = model_facts.read(folder)
    vocabulary = gguf_vocabulary.read_vocabulary(folder, int(model.vocab_size))
    return {
        "general.architecture": gguf_architecture.architecture(model),
        "general.type": "model",
        "general.name": config.name,
        "general.license": config.base.license,
        "general.base_model.count": 1,
        "general.base_model.0.name": config.base.model,
        "general.quantization_version": 2,
        "general.file_type": FILE_TYPES[type_],
        **gguf_architecture.describe(model),
        **gguf_vocabulary.facts(vocabulary, tokenizer),
        "tokenizer.chat_template": jinja(tokenizer),
    }


def jinja(tokenizer: Any) -> str:
    """The chat template for the file. Raises: DataError where turns have no fixed shape."""
    template = turn_shapes.jinja_template(tokenizer)
    if template is None:
        raise DataError(
            "This model's chat template gives turns no fixed shape, so nothing that serves it "
            "could write what it was trained on. Choose another base: --set base.model=NAME"
        )
    return template
