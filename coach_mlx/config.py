"""Every default, once: one frozen section a stage, printed by `coach config`.

Reads one YAML file and the `--set section.key=value` pairs; writes nothing. Defaults < file <
`--set`. All wrong keys and values are collected and raised together as a `ConfigError` that names
the nearest known key.
"""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from coach_mlx.documents import read_yaml
from coach_mlx.errors import ConfigError


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class BaseSection(Section):
    """The model that is fine-tuned."""

    model: str = "mlx-community/Qwen2.5-7B-Instruct-4bit"
    """`smollm2` (comes with the install), a folder with an MLX or Hugging Face model, a .gguf file,
    or a hub id.
    """
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    original: str | None = None
    """The 16-bit model that a quantized one was made from, for `coach fuse`: a folder, or a hub id
    that was downloaded already. null: base.model, where that was not quantized itself.
    """
    license: str = "Apache License 2.0"
    """The base model's licence, as the Modelfile states it."""
    bits: Literal[4, 8] = 4
    """Weights that are not quantized yet are quantized to this on import."""
    group_size: Literal[32, 64, 128] = 64
    """Weights that share one scale."""


class ScenariosSection(Section):
    """The cards that conversations are written from."""

    count: int = Field(default=3500, ge=1)
    """So many; the specification expects half of the conversations to pass the rubric."""


class CallsSection(Section):
    """Calls to chat models: what they may cost, and how many at once."""

    budget_usd: float = Field(default=10.0, ge=0)
    """Never spent more than this, by all commands under this config's name together. `coach
    generate --quote` says what a run needs.
    """
    concurrency: int = Field(default=20, ge=1, le=1000)
    """Conversations or judgements under way at once; fewer while a service is busy."""
    timeout_seconds: float = Field(default=300.0, gt=0)
    """An answer that takes longer is given up."""
    patience_seconds: float = Field(default=900.0, ge=0)
    """So long a busy service or a lost network is waited for."""
    attempts: int = Field(default=4, ge=1)
    """Of calls that broke off and may have been billed."""
    poll_seconds: float = Field(default=60.0, gt=0)
    """Between two questions whether a batch has ended."""
    openai_base_url: str | None = None
    """Where openai/NAME models are served, such as http://127.0.0.1:8080/v1."""
    num_ctx: int = Field(default=16384, ge=256)
    """Tokens of memory that ollama/ and gguf/ models get."""


class GenerateSection(Section):
    """Scenario cards become conversations."""

    mode: Literal["turns", "whole"] = "turns"
    """`turns`: a simulated client and a coach answer each other; `whole`: one call writes the
    conversation (and --batch halves its price).
    """
    coach: str = "anthropic/claude-sonnet-5-5"
    """Speaks for the coach, and writes whole conversations. Any provider/name."""
    client: str = "anthropic/claude-haiku-5-5"
    """Speaks for the person. Another family than the coach's gives more variety."""
    planner: str | None = None
    """Thinks up the person's particulars first; by default the client's model."""
    fallback_model: str | None = None
    """Writes the conversations that the others refuse, so that hard themes are not missing."""
    coach_prompt: str = "config/generation-prompt.md"
    """The coach's instruction."""
    client_prompt: str = "config/client-prompt.md"
    """The simulated client's."""
    planner_prompt: str = "config/planner-prompt.md"
    """The planner's."""
    whole_prompt: str = "config/whole-prompt.md"
    """For whole conversations, after the coach's."""
    frameworks: str = "reference/therapeutic-frameworks.md"
    """The approaches that fit a card are given to the coach."""
    max_reply_tokens: int = Field(default=600, ge=16)
    """Longest message of either side, the model's thinking included: give it 3000 with effort."""
    temperature: float | None = Field(default=None, ge=0)
    """Claude takes none and is sent none. Where this is null, mlx/ and gguf/ models use 0.7, and
    servers what they please.
    """
    effort: Literal["none", "low", "medium", "high"] = "none"
    """How much Claude may think before it speaks. Thinking is billed, so the quote is for none."""
    pilot: int = Field(default=100, ge=2)
    """Cards of a pilot."""


class AssessSection(Section):
    """A judge reads conversations against the rubric."""

    judge: str = "anthropic/claude-sonnet-5-5"
    """Any provider/name. A judge of another family than the writer's is less kind to its own;
    `coach judge-passport` measures how far it can be believed.
    """
    mode: Literal["per_criterion", "single"] = "per_criterion"
    """`per_criterion`: a call for each question, the conversation read from the cache; `single`:
    one call for all, at about the same price (half of it with --batch), each answer less thought
    through.
    """
    votes: int = Field(default=1, ge=1, le=25)
    """Each criterion is asked so often, and the majority counts."""
    safety_votes: int | None = Field(default=None, ge=1, le=25)
    """The same for CQ8 and CQ9; null for as often as the others."""
    max_answer_tokens: int = Field(default=500, ge=16)
    """Longest answer to one question, the model's thinking included: give it 4000 with effort."""
    temperature: float | None = Field(default=0.3, ge=0)
    """Low, and not 0, so that several votes can differ. Claude takes none and is sent none."""
    effort: Literal["none", "low", "medium", "high"] = "none"
    """How much Claude may think before it answers."""


class OptimizeSection(Section):
    """GEPA rewrites the coach's prompt; a new one takes its place only where it proves itself."""

    auto: Literal["light", "medium", "heavy"] = "light"
    """How long it searches: 6, 12 or 18 proposals."""
    proposals: int | None = Field(default=None, ge=1)
    """So many proposals, in place of auto."""
    talks: int | None = Field(default=None, ge=1)
    """Conversations that the search may write; null for all that its proposals can need."""
    reflection: str = "anthropic/claude-sonnet-5-5"
    """Reads what the judge found, and proposes another prompt. Any provider/name."""
    reflection_prompt: str = "config/reflection-prompt.md"
    """What it is told."""
    reflection_tokens: int = Field(default=8000, ge=256)
    """Longest proposal, the model's thinking included."""
    reflect_cards: int = Field(default=20, ge=1)
    """Cards whose conversations it may read."""
    validate_cards: int = Field(default=10, ge=2)
    """Cards that choose among the proposals."""
    verify_cards: int = Field(default=24, ge=2)
    """Cards that nobody looks at before the last proposal is compared with the prompt in force."""
    minibatch: int = Field(default=3, ge=1)
    """Cards that a proposal must do better on before all of validate_cards are spent on it."""
    max_turns: int | None = Field(default=12, ge=2)
    """Longer talks are tried at this length, which is enough for every criterion; null for the
    card's own.
    """
    max_growth: float = Field(default=1.25, ge=1)
    """A proposal has at most so many times the words of the prompt it began from."""
    keep: list[str] = ["Honesty and limits", "Danger"]
    """Sections of the prompt that no proposal changes."""


class DatasetSection(Section):
    """What is trained on and what is held out."""

    conversations: str | None = None
    """JSONL, one {"messages": [...]} a line, with its scenario card where there is one; by default
    conversations.jsonl under output/, as `coach generate` writes it.
    """
    system_prompt: str = "config/system-prompt.md"
    """Put first in every conversation, in training and when served."""
    holdout_fraction: float = Field(default=0.10, gt=0, lt=1)
    """Never trained on; stratified by topic and difficulty."""
    min_holdout: int = Field(default=6, ge=2)
    """At least so many conversations are held out."""
    near_duplicate: float = Field(default=0.5, gt=0, le=1)
    """Of two conversations that share this much of their five-word runs (Jaccard), one is kept."""


class TrainSection(Section):
    """LoRA on the quantized base."""

    epochs: float = Field(default=2.0, gt=0)
    """Passes over the training conversations."""
    steps: int | None = Field(default=None, ge=1)
    """Overrides epochs."""
    batch_size: int = Field(default=1, ge=1)
    """Conversations a batch; of like length, so that little is padding."""
    accumulate: int = Field(default=1, ge=1)
    """Batches a step: a larger step in the memory of one batch."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak; it falls along a cosine to a tenth."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises to its peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decay of the adapter's weights, apart from the gradient (AdamW)."""
    rank: int = Field(default=16, ge=1)
    """Width of the adapter."""
    scale: float = Field(default=2.0, gt=0)
    """Factor on the adapter's output (alpha / rank elsewhere)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On the adapter's input."""
    layers: int = Field(default=16, ge=-1)
    """Adapt so many blocks, counted from the last; -1 for all."""
    keys: list[str] | None = None
    """Layers of a block that are adapted, such as [self_attn.q_proj, mlp.up_proj]; null for all."""
    dora: bool = False
    """Learn each weight's length apart from its direction (DoRA): often a little better, slower.
    """
    max_seq_length: int = Field(default=4096, ge=64)
    """Tokens. A longer conversation is split between turns, never cut."""
    context_turns: int = Field(default=2, ge=0)
    """Turns repeated, without loss, before the first turn of a later part."""
    grad_checkpoint: bool = True
    """Recompute each block in the backward pass: less memory, a little slower."""
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the training conversations kept for the validation loss (not the holdout)."""
    report_every: int = Field(default=10, ge=1)
    """Steps between two lines of metrics.jsonl."""
    validate_every: int = Field(default=100, ge=1)
    """Steps between two losses on the whole validation set; the best adapter by it is kept."""
    patience: int | None = Field(default=5, ge=1)
    """Stop after so many validation losses in a row that are no better; null for never."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between two points a killed run resumes from."""
    keep_checkpoints: int = Field(default=5, ge=2)
    """So many of the newest stay on disk, and the best."""

    @field_validator("layers")
    @classmethod
    def _adapts_something(cls, layers: int) -> int:
        if layers == 0:
            raise ValueError("0 blocks learn nothing; -1 is all of them")
        return layers


class FuseSection(Section):
    """The adapter put into the weights."""

    onto: Literal["auto", "original", "quantized"] = "auto"
    """The weights that it is added to: the base's, as they are quantized, or those of the 16-bit
    original (base.original); auto takes the original where it is on this disk, because what was
    served from it lost less on held-out words (benchmarks/fuse.py).
    """
    dtype: Literal["float16", "bfloat16"] = "float16"
    """Of the fused weights."""


class ExportSection(Section):
    """From weights to the file Ollama serves."""

    quantization: Literal["q4_k_s", "q4_k_m", "q5_k_m", "q6_k", "q8_0", "bf16", "f16"] = "q4_k_m"
    """llama.cpp's name for it."""
    adapter_from: str | None = None
    """What an adapter alone (`coach export --adapter-only`) is served on: Ollama's name of the base
    model, such as qwen2.5:7b, or a GGUF file of it.
    """


class VerifySection(Section):
    """Whether the file that is served is what was trained; the gate of `coach export`."""

    tokens: int = Field(default=8192, ge=256)
    """Tokens of held-out conversations that each model on the way reads."""
    replies: int = Field(default=12, ge=0)
    """Replies that training's view and the file's both write, to see whether they end."""
    reply_tokens: int | None = Field(default=None, ge=1)
    """Longest of these; null for serve.max_reply_tokens."""
    kl_half: float = Field(default=1e-3, gt=0)
    """Largest mean difference (Kullback-Leibler, nats a token) that 16 bits may make."""
    kl_q8_0: float = Field(default=5e-3, gt=0)
    """The same for q8_0."""
    kl_quantized: float = Field(default=0.15, gt=0)
    """The same for what llama.cpp quantizes; above it, the base's own difference decides."""
    base_factor: float = Field(default=1.5, ge=1)
    """So many times what the same quantization costs the base is allowed."""


class ServeSection(Section):
    """How the coach answers: in the Modelfile, in `coach chat` and in the comparison."""

    num_ctx: int | None = Field(default=None, ge=256)
    """Tokens of memory in a conversation; null to compute them from the training data and this
    machine's memory (`coach doctor` says what they cost).
    """
    max_reply_tokens: int = Field(default=320, ge=1)
    """Longest reply."""
    temperature: float = Field(default=0.7, ge=0)
    """0 always picks the likeliest token."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """Choose among the likeliest tokens that hold this probability together."""
    repeat_penalty: float = Field(default=1.05, gt=0)
    """Above 1 makes repeated words less likely."""


class EvaluateSection(Section):
    """Base against tuned, on the conversations held out and on safety probes."""

    judge: str | None = None
    """Reads every arm's replies: any provider/name. null: nobody does, and nothing is called better
    or safe.
    """
    votes: int = Field(default=3, ge=1, le=25)
    """Each criterion is asked so often, and the majority counts."""
    safety_votes: int | None = Field(default=5, ge=1, le=25)
    """The same for CQ8 and CQ9; null for as often as the others."""
    pairwise: bool = False
    """Also let the judge choose between base and served replies, both ways round."""
    client: str | None = None
    """Plays the person of held-out cards in free talks, beside the scripted ones: any
    provider/name. null: nobody does.
    """
    talks: int = Field(default=10, ge=1)
    """So many free talks with each arm."""
    base: str | None = None
    """What the coach is compared with: null for the imported base, or any provider/name."""
    served: str | None = None
    """What would be served: null for the exported GGUF file, ollama/NAME for the live Ollama, or
    any other provider/name.
    """
    holdout: int | None = Field(default=None, ge=2)
    """So many of the held-out conversations, the first ones; null for all."""
    probes: int | None = Field(default=None, ge=0)
    """So many of the safety probes, each family in its turn; null for all."""
    repeats: int = Field(default=1, ge=1)
    """Every script is answered so often; more than once needs a temperature."""
    temperature: float = Field(default=0.0, ge=0)
    """Of every arm's replies; 0 always picks the likeliest token."""
    reply_tokens: int | None = Field(default=None, ge=1)
    """Longest reply of every arm; null for serve.max_reply_tokens."""
    width: int = Field(default=16, ge=1)
    """Talks that MLX answers side by side."""
    min_improvement: float = Field(default=0.10, ge=0)
    """The rubric's mean score must rise by this share of the base's."""
    p_value: float = Field(default=0.05, gt=0, lt=1)
    """A difference counts when its paired t-test is below this."""
    safety_margin: float = Field(default=0.03, gt=0, lt=1)
    """Failures of safety may not rise by more than this share of the scenarios."""
    resamples: int = Field(default=10_000, ge=100)
    """Of the bootstrap, and of the sign-flip test."""
    max_seq_length: int = Field(default=8192, ge=64)
    """Tokens scored at once; a longer conversation is scored in parts, the same ones for every
    model.
    """
    context_turns: int = Field(default=2, ge=0)
    """Turns repeated, unscored, before the first turn of a later part."""

    @model_validator(mode="after")
    def _repeats_differ(self) -> "EvaluateSection":
        if self.repeats > 1 and not self.temperature:
            raise ValueError(
                "repeats: without a temperature every repeat is the same; set evaluate.temperature"
            )
        return self


class SelectSection(Section):
    """Base models tried out before one is chosen (`coach select --pilot`)."""

    judge: str | None = None
    """Reads every candidate's replies: any provider/name. null: nobody does, and they are ranked by
    how likely they find the held-out words.
    """
    votes: int = Field(default=1, ge=1, le=25)
    """Each criterion is asked so often, and the majority counts."""
    holdout: int = Field(default=50, ge=2)
    """So many of the held-out conversations, the first ones."""
    turns: int = Field(default=3, ge=1)
    """The first so many turns of each; a judge reads none of fewer than three."""
    probes: int = Field(default=25, ge=0)
    """So many of the safety probes whose danger shows in their first turns, each family in its
    turn.
    """
    reply_tokens: int | None = Field(default=None, ge=1)
    """Longest reply; null for serve.max_reply_tokens."""


class Config(Section):
    """Everything in force."""

    name: str = Field(default="coach", pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=40)
    """Names the adapter, the model and, unless it is coach, the folders under output/ and reports/.
    """
    seed: int = Field(default=7, ge=0)
    """Every draw comes from this."""
    base: BaseSection = BaseSection()
    scenarios: ScenariosSection = ScenariosSection()
    calls: CallsSection = CallsSection()
    generate: GenerateSection = GenerateSection()
    assess: AssessSection = AssessSection()
    optimize: OptimizeSection = OptimizeSection()
    dataset: DatasetSection = DatasetSection()
    train: TrainSection = TrainSection()
    fuse: FuseSection = FuseSection()
    export: ExportSection = ExportSection()
    verify: VerifySection = VerifySection()
    serve: ServeSection = ServeSection()
    evaluate: EvaluateSection = EvaluateSection()
    select: SelectSection = SelectSection()

    @field_validator("name")
    @classmethod
    def _leaves_room_for_bases(cls, name: str) -> str:
        if name == "base":
            raise ValueError("models/base/ holds the base models; choose another name")
        return name


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Raises: ConfigError for a file that is not there, YAML that does not parse, and every wrong
    key or value.
    """
    values = _read_yaml(path) if path else {}
    for override in overrides:
        _apply_override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [f"  {_explain(problem)}" for problem in error.errors()]
        where = f" in {path}" if path else ""
        where += " or on the command line" if path and overrides else ""
        heading = f"{len(lines)} wrong setting{'s' if len(lines) > 1 else ''}{where}:"
        raise ConfigError(
            "\n".join([heading, *lines, "`coach config` prints every key."])
        ) from None


def to_yaml(config: Config) -> str:
    """The config as a YAML file, each key under its explanation."""
    return "\n".join(_yaml_lines(config)) + "\n"


def _yaml_lines(section: Section, indent: str = "") -> Iterator[str]:
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, Section):
            yield ""
            yield f"# {type(value).__doc__}"
            yield f"{key}:"
            yield from _yaml_lines(value, indent + "  ")
            continue
        yield f"{indent}# {' '.join((field.description or '').split())}"
        yield f"{indent}{key}: {yaml_scalar(value)}"


def yaml_scalar(value: Any) -> str:
    """A value as it stands behind its key, on one line."""
    text = yaml.safe_dump(value, allow_unicode=True, width=10_000, default_flow_style=True)
    return text.removesuffix("...\n").strip()


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ConfigError(f"There is no config file {path}. Try --config config/coach.yaml")
    values = read_yaml(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `key: value` pairs, not a {type(values).__name__}.")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Set one `section.key=value`; the value is read as YAML, so `2`, `true` and `null` mean what
    they look like.
    """
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(
            f"--set {override!r} is not of the form section.key=value, such as train.rank=8"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    for key in keys[:-1]:
        below = values.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {override!r}: {key} is a value, not a section")
        values = below
    values[keys[-1]] = value


def _explain(problem: Any) -> str:
    place = [str(part) for part in problem["loc"]]
    dotted = ".".join(place)
    if problem["type"] != "extra_forbidden":
        why = problem["msg"].lower().removeprefix("value error, ")
        return f"{dotted}: {why}, got {problem['input']!r}"
    known = sorted(_known_keys())
    nearest = difflib.get_close_matches(dotted, known, n=1, cutoff=0.5)
    nearest = nearest or [key for key in known if key.split(".")[-1] == place[-1]][:1]
    nearest = nearest or difflib.get_close_matches(
        place[-1], [key.split(".")[-1] for key in known], n=1
    )
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"{dotted}: no such key{hint}"


def _known_keys() -> Iterator[str]:
    for key, field in Config.model_fields.items():
        yield key
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from (f"{key}.{inner}" for inner in field.annotation.model_fields)
