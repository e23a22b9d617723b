"""What a call costs, and what it can cost at most.

Reads: config/prices.yaml. Writes nothing. Fails: ConfigError with everything that is wrong in the
document, and for a model that is not in it, with what to add.
"""

from datetime import date
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from coach_mlx.calls import Call, Usage, split_name
from coach_mlx.documents import read_document
from coach_mlx.errors import ConfigError
from coach_mlx.records import Record

PRICES = "config/prices.yaml"
FREE = ("ollama", "mlx", "gguf", "scripted")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
PerMillion = Annotated[float, Field(ge=0)]


class Tier(Record):
    """USD per million tokens, for prompts of up to so many tokens; `None` for any longer one."""

    up_to_prompt_tokens: int | None
    input: PerMillion
    output: PerMillion
    cache_read: PerMillion
    cache_write_5m: PerMillion
    cache_write_1h: PerMillion

    def cost(self, usage: Usage) -> float:
        rates = (
            self.input,
            self.output,
            self.cache_read,
            self.cache_write_5m,
            self.cache_write_1h,
        )
        return sum(rate * tokens for rate, tokens in zip(rates, usage, strict=True)) / 1e6

    def dearest_input(self) -> float:
        return max(self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h)


class Price(Record):
    model: str
    found_on: date
    source: str = ""
    tiers: tuple[Tier, ...] = Field(min_length=1)
    batch_factor: float = Field(default=1.0, gt=0, le=1)
    cache_minimum_tokens: int = Field(default=1024, ge=0)

    @model_validator(mode="after")
    def _tiers_ascend(self) -> "Price":
        bounds = [tier.up_to_prompt_tokens for tier in self.tiers]
        known = [bound for bound in bounds if bound is not None]
        if bounds[-1] is not None or len(known) != len(bounds) - 1 or known != sorted(set(known)):
            raise ValueError("tiers ascend by up_to_prompt_tokens, and the last one is null")
        return self

    def cost(self, usage: Usage, batch: bool = False) -> float:
        """USD for what was used."""
        tier = next(
            tier
            for tier in self.tiers
            if tier.up_to_prompt_tokens is None or usage.prompt <= tier.up_to_prompt_tokens
        )
        return tier.cost(usage) * (self.batch_factor if batch else 1)

    def most(self, call: Call, batch: bool = False) -> float:
        """USD no answer to this call can exceed: every byte a token, every token at the dearest
        rate of any tier the prompt could fall into, and the longest answer.
        """
        worst, prompt = 0.0, call.most_prompt_tokens
        for tier in self.tiers:
            here = min(prompt, tier.up_to_prompt_tokens or prompt)
            worst = max(worst, here * tier.dearest_input() + call.max_tokens * tier.output)
            if here == prompt:
                break
        return worst / 1e6 * (self.batch_factor if batch else 1)


NOTHING = Price(
    model="",
    found_on=date.min,
    tiers=(
        Tier(
            up_to_prompt_tokens=None,
            input=0,
            output=0,
            cache_read=0,
            cache_write_5m=0,
            cache_write_1h=0,
        ),
    ),
)


class Prices:
    """Prices by model name; `openai_url` tells whether such a model runs on this machine."""

    def __init__(self, path: Path, openai_url: str | None = None) -> None:
        self._path, self._openai_url = path, openai_url
        self._known: dict[str, Price] = {}
        for price in sorted(
            read_document(path, tuple[Price, ...]), key=lambda price: price.found_on
        ):
            self._known[price.model] = price

    def find(self, model: str) -> Price:
        """The newest price. Raises: ConfigError for an unknown model."""
        if self.is_free(model):
            return NOTHING
        if split_name(model)[0] == "openai" and not self._openai_url and model not in self._known:
            raise ConfigError(
                f"{model} needs the address of its server: "
                "--set calls.openai_base_url=http://127.0.0.1:8080/v1"
            )
        if model not in self._known:
            raise ConfigError(
                f"There is no price for {model} in {self._path}, so no budget can hold. Add an "
                "entry with model, found_on (today) and tiers: input, output, cache_read, "
                "cache_write_5m and cache_write_1h in USD per million tokens. Known: "
                f"{', '.join(self._known)}."
            )
        return self._known[model]

    def is_free(self, model: str) -> bool:
        """Whether it runs on this machine."""
        provider, _ = split_name(model)
        local = urlsplit(self._openai_url or "").hostname in LOCAL_HOSTS
        return provider in FREE or (provider == "openai" and local)
