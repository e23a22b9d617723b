"""LoRA and DoRA layers on a frozen base, in mlx-lm's format, and layers that recompute.

Writes adapters.safetensors and adapter_config.json, which plain mlx-lm opens with `--adapter-path`.
Fails: ConfigError for a layer name (`train.keys`) that no block has.
"""

import difflib
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from coach_mlx import mlx_runtime
from coach_mlx.config import TrainSection
from coach_mlx.errors import ConfigError
from coach_mlx.workspace import write_whole

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"


def attach(model: Any, settings: TrainSection) -> None:
    """Freeze the base and put an adapter on the last `settings.layers` blocks.

    Its first values come from mx.random.
    """
    from mlx_lm.tuner.utils import linear_to_lora_layers

    _require_known(model, settings)
    model.freeze()
    config = adapter_config(settings)
    linear_to_lora_layers(
        model, config["num_layers"], config["lora_parameters"], use_dora=settings.dora
    )
    if settings.grad_checkpoint:
        for layer in adapted_blocks(model, settings):
            recompute(layer)


def adapted_blocks(model: Any, settings: TrainSection) -> list[Any]:
    """The blocks that carry an adapter; those below them need no gradient at all."""
    blocks = list(model.layers)
    return blocks if settings.layers < 1 else blocks[-settings.layers :]


def adapter_config(settings: TrainSection) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "rank": settings.rank,
        "scale": settings.scale,
        "dropout": settings.dropout,
    }
    if settings.keys:
        parameters["keys"] = list(settings.keys)
    return {
        "fine_tune_type": "dora" if settings.dora else "lora",
        "num_layers": settings.layers,
        "lora_parameters": parameters,
    }


def save(model: Any, settings: TrainSection, folder: Path) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    write_whole(folder / CONFIG, json.dumps(adapter_config(settings), indent=2) + "\n")
    beside = folder / f"partial.{WEIGHTS}"
    with mlx_runtime.writing(folder):
        mx.save_safetensors(str(beside), dict(tree_flatten(model.trainable_parameters())))
    beside.replace(folder / WEIGHTS)


def _require_known(model: Any, settings: TrainSection) -> None:
    import mlx.nn as nn
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

    experts = (SwitchLinear, QuantizedSwitchLinear)
    found = {
        name: module
        for layer in adapted_blocks(model, settings)
        for name, module in layer.named_modules()
        if isinstance(module, (nn.Linear, nn.QuantizedLinear, *experts))
        or hasattr(module, "to_lora")
    }
    wrong = [key for key in settings.keys or () if key not in found]
    if wrong:
        raise ConfigError(
            f"train.keys: no adapted block of this model has {', '.join(_hinted(wrong, found))}. "
            f"They have: {', '.join(sorted(found))}"
        )
    chosen = [module for name, module in found.items() if name in (settings.keys or found)]
    if settings.dora and any(isinstance(module, experts) for module in chosen):
        raise ConfigError(
            "train.dora: mlx-lm has no DoRA for layers of several experts. Name others in "
            "train.keys, or type: --set train.dora=false"
        )


def _hinted(wrong: Sequence[str], known: Iterable[str]) -> Iterator[str]:
    for key in wrong:
        hint = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        yield f"{key} (did you mean {hint[0]}?)" if hint else key


def recompute(layer: Any) -> None:
    """Let one layer keep its input alone and compute itself again in the backward pass.

    (Unlike mlx-lm's `grad_checkpoint`, which changes the class for the whole process, and draws
    another dropout mask the second time.)
    """
    kind: Any = type(layer)
    layer.__class__ = _recomputing(kind)


@functools.cache
def _recomputing(kind: Any) -> Any:
    if hasattr(kind, "recomputes"):
        return kind

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        import mlx.core as mx

        key, again = _random_key(), False

        def inner(parameters: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal again
            later = _random_key()
            mx.random.seed(key)
            self.update(parameters)
            result = kind.__call__(self, *arguments, **options)
            if again:
                mx.random.seed(later)
            again = True
            return result

        return mx.checkpoint(inner)(self.trainable_parameters(), *arguments, **options)

    return type(kind.__name__, (kind,), {"__call__": call, "recomputes": True})


def _random_key() -> int:
    """The seed that would bring back the present state of mx.random."""
    import mlx.core as mx

    state: Any = mx.random.state
    high, low = state[0].tolist()
    return int(high << 32 | low)
