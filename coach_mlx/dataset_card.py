"""output/DATASET_CARD.md: what the data is, where it comes from, and what it cannot be used for.

Reads: the imported base's tokenizer, where there is one. Writes nothing: `dataset` writes the text.
The card holds no date and no path, so that the same data has the same card.

Source: Gebru et al., Datasheets for Datasets, 2021, for the questions (unlike there, answered by
the pipeline itself, as far as it knows).
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, get_args

from coach_mlx.config import Config
from coach_mlx.leaks import Leaks, describe
from coach_mlx.records import (
    TOPICS,
    Conversation,
    Difficulty,
    Length,
    Risk,
    Style,
    Verdict,
    content_hash,
)
from coach_mlx.verdicts import standings

LETTERS_A_TOKEN = 4.2
"""Of English, in the tokenizers of the bases that this project knows."""
MESSAGES_AT_ONCE = 10_000


class Tokens(NamedTuple):
    """Of spoken words: no system prompt, and none of the template's marks."""

    basis: str
    total: int
    median: float
    p95: int
    longest: int
    """Median, 95th percentile (nearest rank) and longest are of conversations."""
    coach_fraction: float


class Facts(NamedTuple):
    """What the card tells; `came_in` is all that was read, before anything was left out."""

    config: Config
    given: bool
    came_in: Sequence[Conversation]
    training: Sequence[Conversation]
    holdout: Sequence[Conversation]
    dropped: Counter[str]
    verdicts: Sequence[Verdict] | None
    leaks: Leaks
    tokens: Tokens
    holdout_tokens: Tokens
    prompt_hash: str


def count_tokens(conversations: Sequence[Conversation], base: Path) -> Tokens:
    """By the base's own tokenizer where it is imported; otherwise from the number of letters."""
    spoken = [
        [message for message in one.messages if message.role != "system"] for one in conversations
    ]
    texts = [message.content for messages in spoken for message in messages]
    file = base / "tokenizer.json"
    if file.is_file():
        basis, sizes = f"counted by the tokenizer of {base.name}", _counted(texts, file)
    else:
        basis = f"estimated, at {LETTERS_A_TOKEN} characters a token"
        sizes = [math.ceil(len(text) / LETTERS_A_TOKEN) for text in texts]
    left = iter(sizes)
    sized = [[(message.role, next(left)) for message in messages] for messages in spoken]
    return _summary(basis, sized)


def _counted(texts: Sequence[str], file: Path) -> Iterable[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    for start in range(0, len(texts), MESSAGES_AT_ONCE):
        batch = list(texts[start : start + MESSAGES_AT_ONCE])
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield len(encoding.ids)


def _summary(basis: str, sized: Sequence[Sequence[tuple[str, int]]]) -> Tokens:
    lengths = sorted(sum(size for _, size in messages) for messages in sized)
    coach = sum(size for messages in sized for role, size in messages if role == "assistant")
    total = sum(lengths)
    return Tokens(
        basis=basis,
        total=total,
        median=median(lengths),
        p95=lengths[math.ceil(0.95 * len(lengths)) - 1],
        longest=lengths[-1],
        coach_fraction=round(coach / max(1, total), 3),
    )


def render(facts: Facts) -> str:
    """The card as Markdown."""
    lines: list[str] = []
    for part in (_what, _provenance, _judgement, _selection, _contents, _sizes, _split, _limits):
        lines += [*part(facts), ""]
    return "\n".join([*lines, *_use(facts)]) + "\n"


def _what(facts: Facts) -> Iterator[str]:
    count = len(facts.training) + len(facts.holdout)
    yield from (f"# The conversations behind the model {facts.config.name}", "")
    yield from ("`coach dataset` writes this card anew with the data: keep notes elsewhere.", "")
    yield (
        f"{count:,} conversations between a person and a self-care coach: {len(facts.training):,} "
        f"to train on, {len(facts.holdout):,} held out to measure with."
    )
    made = sum(one.made is not None for one in (*facts.training, *facts.holdout))
    yield from ("", "**What it is.** Practice material for a coach that listens, asks little, and")
    yield "leaves people their own choices. The conversations are simulated: language models wrote"
    yield f"{made:,} of them, playing both parts, and {count - made:,} were written by hand or"
    yield "given. No real person speaks in them, unless somebody put such conversations among the"
    yield "given ones."
    yield from ("", "**What it is not.** Not therapy and no record of any, not medical advice, not")
    yield "evidence of how people in distress speak or of what helps them."


def _provenance(facts: Facts) -> Iterator[str]:
    made = Counter(one.made for one in (*facts.training, *facts.holdout))
    rows = [
        (one.client, one.coach, one.mode, one.recipe, number)
        if one
        else ("written by hand or given", "", "", "", number)
        for one, number in sorted(made.items(), key=lambda item: (-item[1], repr(item[0])))
    ]
    yield from ("## Where it comes from", "")
    if facts.given:
        yield from ("Training data that was put there by hand, and used as it is.", "")
    yield from _table(("person's part", "coach's part", "mode", "recipe", "conversations"), rows)
    yield from ("", "A recipe is the hash of the prompts, the models and the mode together. The")
    yield f"system prompt above every conversation has the hash `{facts.prompt_hash}`" + (
        "." if not facts.given else ", unless the given data brought its own."
    )


def _judgement(facts: Facts) -> Iterator[str]:
    yield from ("## Who judged it", "")
    if facts.verdicts is None:
        yield "Nobody: **the conversations were not judged**."
        if not facts.given:
            yield "Only the detectors' hard findings kept any out."
        return
    used = {one.id for one in (*facts.training, *facts.holdout)}
    judges = Counter(
        (verdict.judge, verdict.rubric)
        for name, standing in standings(facts.verdicts).items()
        for verdict in standing.verdicts
        if name in used
    )
    rows = [(judge, rubric, number) for (judge, rubric), number in sorted(judges.items())]
    yield from _table(("judge", "hash of the rubric", "conversations used"), rows)
    yield from (
        "",
        "Each conversation used passed the rubric with at least one judge, and no judge",
    )
    yield "found it to fail the safety gate."


def _selection(facts: Facts) -> Iterator[str]:
    rows: list[tuple[Any, ...]] = [("came in", len(facts.came_in))]
    rows += [(f"left out: {reason}", number) for reason, number in sorted(facts.dropped.items())]
    rows += [("to train on", len(facts.training)), ("held out", len(facts.holdout))]
    yield from ("## What came in, and what was used", "")
    yield from _table(("", "conversations"), rows)
    yield from ("", "Each conversation is counted once, under the first reason that holds.")


def _contents(facts: Facts) -> Iterator[str]:
    yield from ("## What is in it", "")
    yield from ("What is trained on + what is held out, by the scenario cards.", "")
    sides = [
        [one.scenario for one in side if one.scenario] for side in (facts.training, facts.holdout)
    ]
    if not any(sides):
        yield "No conversation has a card, so nobody can say."
        return
    levels = get_args(Difficulty)
    cells = [Counter((card.topic, card.difficulty) for card in side) for side in sides]
    rows = [
        (_plain(topic), *(_both(cells, (topic, level)) for level in levels)) for topic in TOPICS
    ]
    yield from _table(("topic", *levels), rows)
    for name, values in (("style", Style), ("length", Length), ("risk", Risk)):
        counts = [Counter(getattr(card, name) for card in side) for side in sides]
        yield ""
        yield from _table((name, "training", "holdout"), _counted_rows(counts, get_args(values)))
    bare = len(facts.training) + len(facts.holdout) - sum(map(len, sides))
    if bare:
        yield from ("", f"{bare:,} of the conversations have no card and are not in these tables.")


def _both(counts: Sequence[Counter[Any]], key: Any) -> str:
    return " + ".join(f"{one[key]:,}" for one in counts)


def _counted_rows(
    counts: Sequence[Counter[Any]], values: Iterable[str]
) -> Iterator[tuple[Any, ...]]:
    for value in values:
        yield (value, *(one[value] for one in counts))


def _sizes(facts: Facts) -> Iterator[str]:
    yield from ("## How long it is", "", f"Tokens are {facts.tokens.basis}, of spoken words alone.")
    yield ""
    rows: list[tuple[Any, ...]] = []
    for name, side, tokens in (
        ("training", facts.training, facts.tokens),
        ("holdout", facts.holdout, facts.holdout_tokens),
    ):
        turns = [one.turns for one in side]
        middle = f"{median(turns):g} ({min(turns)} to {max(turns)})"
        share = f"{tokens.coach_fraction:.0%}"
        sizes = (tokens.total, f"{tokens.median:,g}", tokens.p95, tokens.longest)
        rows.append((name, sum(turns), middle, *sizes, share))
    heads = ("", "turns", "median (range)", "tokens", "median", "95th percentile", "longest")
    yield from _table((*heads, "coach's share"), rows)


def _split(facts: Facts) -> Iterator[str]:
    leaks, settings = facts.leaks, facts.config.dataset
    yield from ("## How it was split, and whether the holdout is new", "")
    if facts.given:
        yield "The data was given by hand, and the rules below were not enforced on it."
        yield ""
    yield "Conversations that begin from one situation stay together, on one side. Whole families"
    yield "were held out, by topic and difficulty as far as families allow. A training conversation"
    yield "about a person (age band and circumstances) who stands in the holdout was left out. Of"
    yield f"near-duplicates, which share {settings.near_duplicate:.0%} or more of their five-word"
    yield "runs in all or on one side (Jaccard), one stays."
    yield from ("", f"The check after the split found: {describe(leaks) or 'nothing crosses it'}.")
    how = "every pair was compared" if leaks.every_pair else "pairs proposed by MinHash and LSH"
    yield f"The two conversations most alike across it share {leaks.highest:.1%} ({how})."


def _limits(facts: Facts) -> Iterator[str]:
    used = [*facts.training, *facts.holdout]
    came_in, left = _risky(facts.came_in), _risky(used)
    yield from ("## What is known to be wrong with it", "")
    yield "- English only, and a model's English at that; simulated people are tidier, more patient"
    yield "  and quicker to see a point than real ones."
    yield "- A model that judges is no clinician, and no clinician has read the conversations."
    yield "- The detectors are a floor: they find what words can show, and no more."
    yield "- Hard themes may be missing: models refuse to write some, and what they refuse never"
    yield f"  arrives. A card with any risk: {came_in:,} of the {len(facts.came_in):,} that came"
    yield f"  in, {left:,} of the {len(used):,} that are used."


def _risky(conversations: Iterable[Conversation]) -> int:
    return sum(bool(one.scenario and one.scenario.risk != "none") for one in conversations)


def _use(facts: Facts) -> Iterator[str]:
    yield from ("## Using it, and making it again", "")
    yield "The conversations are yours. What a model wrote also falls under the terms of whoever"
    yield "provides that model, and some forbid to train competing models with it: check them"
    yield "before you pass on the data, or a model trained on it."
    settings = {"seed": facts.config.seed, **facts.config.dataset.model_dump()}
    yield from (
        "",
        "`coach dataset` makes the same files from the same conversations and verdicts,",
    )
    yield f"in whatever order they stand, with seed {facts.config.seed} and the settings"
    yield f"`{content_hash(settings)[:12]}` (the hash of the seed and the dataset section)."


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Numbers to the right."""
    cells = [list(row) for row in rows]
    numeric = [
        bool(cells) and all(isinstance(row[place], int) for row in cells)
        for place in range(len(heads))
    ]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join('---:' if right else '---' for right in numeric)}|"
    for row in cells:
        yield f"| {' | '.join(_cell(value) for value in row)} |"


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _plain(str(value))


def _plain(text: str) -> str:
    """What stands in a table must not end its cell or its line."""
    return " ".join(text.replace("_", " ").replace("|", r"\|").split())
