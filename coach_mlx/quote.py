"""What a run will cost, before anything is spent.

Reads the ledger; sends nothing. Where this recipe has written enough already, the basis is what
its turns cost; before that, every call is laid out with its prefix, its note and its answer, and
billed as the service bills: shared prefixes read from the cache, the newest exchange written to
it. Lengths are then assumptions, and the quote says so.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from coach_mlx import console
from coach_mlx.arcs import draw_arc
from coach_mlx.calls import Call, Usage
from coach_mlx.dialogue import Cast, Plan, client_call, coach_call, plan_call, whole_call
from coach_mlx.ledger import Ledger
from coach_mlx.prices import Price, Prices
from coach_mlx.records import Message, Scenario

BYTES_PER_TOKEN = 4.0
"""Of English prose, until this model's own calls say better."""
BYTES_PER_WORD = 5.1
"""Of what people and coaches type, the space included (starters)."""
PLAN_WORDS = (90, 16)
"""Of a plan: so many, and so many more for each beat."""
COACH_WORDS = (17.4, 0.13)
"""Of a reply: so many, and so many more for each word of the person's message (a line through the
starters).
"""
WHOLE_OVERHEAD_WORDS = 6
"""Names and brackets around each message of a whole conversation."""
CALL_OVERHEAD_TOKENS = 10
MESSAGE_OVERHEAD_TOKENS = 4
ENOUGH_TURNS = 200
ASSUMED = (
    "assumed lengths (of the starter conversations), no repeated calls, no thinking, a cache that "
    "holds"
)
FILLER = "word "


class Quote(NamedTuple):
    conversations: int
    turns: int
    calls: int
    usage: Usage
    usd: float
    basis: str


class Estimated(NamedTuple):
    """A call, and how long its answer may be."""

    call: Call
    answer_words: float


def quote(
    cards: Sequence[Scenario], cast: Cast, prices: Prices, ledger: Ledger, written: int, batch: bool
) -> Quote:
    """For these cards; `written` turns exist that this recipe made."""
    turns = sum(card.turns for card in cards)
    if written >= ENOUGH_TURNS and can_be_measured(ledger, cast.recipe, batch):
        basis = (
            f"what {written} turns by this recipe did cost, failures and repeated calls included"
        )
        return measured(len(cards), turns, turns / written, ledger, cast.recipe, basis)
    return lay_out(
        [writing_calls(card, cast) for card in cards], turns, cast.writers(), prices, ledger, batch
    )


def can_be_measured(ledger: Ledger, group: str, batch: bool) -> bool:
    """Whether what a group's calls did cost says what more of them will."""
    return ledger.totals(group=group).calls > 0 and not (batch or ledger.was_batched(group))


def measured(
    talks: int, turns: int, factor: float, ledger: Ledger, group: str, basis: str
) -> Quote:
    """So many times what a group's calls did cost."""
    so_far = ledger.totals(group=group)
    usage = Usage(*(round(tokens * factor) for tokens in so_far.usage))
    usd = (so_far.usd + so_far.lost_usd) * factor
    return Quote(talks, turns, round(so_far.calls * factor), usage, usd, basis)


def lay_out(
    talks: Sequence[Iterable[Estimated]],
    turns: int,
    models: Iterable[str],
    prices: Prices,
    ledger: Ledger,
    batch: bool,
) -> Quote:
    """Every call of every talk, billed as the service bills it."""
    total, usd, calls = Usage(), 0.0, 0
    ratios = {model: ledger.bytes_per_token(model) or BYTES_PER_TOKEN for model in models}
    for talk in talks:
        cached: dict[str, float] = {}
        for call, answer_words in talk:
            price = prices.find(call.model)
            usage = _usage(call, answer_words, cached, ratios[call.model], price)
            total, usd, calls = total.plus(usage), usd + price.cost(usage, batch), calls + 1
    tokens = Usage(*(round(count) for count in total))
    return Quote(len(talks), turns, calls, tokens, usd, _basis(ratios, prices))


def _basis(ratios: dict[str, float], prices: Prices) -> str:
    parts = [
        f"{model} {ratio:.2f} bytes a token"
        + (f", prices of {prices.find(model).found_on}" if not prices.is_free(model) else ", free")
        for model, ratio in ratios.items()
    ]
    return f"{ASSUMED}; " + "; ".join(sorted(parts))


def filled_talk(card: Scenario) -> list[Message]:
    """A talk about as long as the card's will be, without sense."""
    pairs = zip(draw_arc(card).words, _replies(card), strict=True)
    return [
        Message(role=role, content=_filled(words))
        for said, reply in pairs
        for role, words in (("user", said), ("assistant", reply))
    ]


def _replies(card: Scenario) -> list[float]:
    """Words of each."""
    return [COACH_WORDS[0] + COACH_WORDS[1] * words for words in draw_arc(card).words]


def writing_calls(card: Scenario, cast: Cast) -> Iterator[Estimated]:
    """Every call of one conversation, its talk filled with words of the expected number."""
    arc, replies = draw_arc(card), _replies(card)
    if cast.settings.mode == "whole":
        words = sum(arc.words) + sum(replies) + 2 * arc.turns * WHOLE_OVERHEAD_WORDS
        yield Estimated(whole_call(card, cast), words)
        return
    plan_words = PLAN_WORDS[0] + PLAN_WORDS[1] * arc.turns
    yield Estimated(plan_call(card, arc, cast), plan_words)
    plan = Plan(
        facts=[FILLER * (PLAN_WORDS[0] // 2)],
        opening=FILLER * (PLAN_WORDS[0] // 4),
        beats=[(FILLER * PLAN_WORDS[1]).strip()] * arc.turns,
        ending=FILLER * (PLAN_WORDS[0] // 4),
    )
    talk = filled_talk(card)
    for turn, (said, reply) in enumerate(zip(arc.words, replies, strict=True), start=1):
        at = 2 * (turn - 1)
        yield Estimated(client_call(card, arc, plan, talk[:at], turn, cast), said)
        yield Estimated(coach_call(card, arc, talk[: at + 1], turn, cast), reply)


def _filled(words: float) -> str:
    """Text as long as so many words of prose."""
    return "x" * max(1, round(words * BYTES_PER_WORD))


def _usage(
    call: Call,
    answer_words: float,
    cached: dict[str, float],
    bytes_per_token: float,
    price: Price,
) -> Usage:
    """What the service will count; `cached` holds, by purpose, how much of a talk's prefix is in
    the cache, and is brought up to date.
    """

    def tokens(text_bytes: float) -> float:
        return text_bytes / bytes_per_token

    note = tokens(len((call.note or "").encode()))
    prompt = tokens(call.prompt_bytes)
    prompt += CALL_OVERHEAD_TOKENS + MESSAGE_OVERHEAD_TOKENS * len(call.messages)
    output = tokens(answer_words * BYTES_PER_WORD)
    least = price.cache_minimum_tokens
    shared = tokens(len(call.system[0].encode())) if call.system else 0.0
    if call.once or not price.tiers[0].cache_read:
        read = shared if shared >= least else 0.0
        return Usage(round(prompt - read), round(output), round(read))
    prefix = prompt - note
    read = cached.get(call.purpose, shared if shared >= least else 0.0)
    if prefix < least:
        return Usage(round(prompt), round(output))
    cached[call.purpose] = prefix
    return Usage(round(note), round(output), round(read), round(prefix - read))


def show(found: dict[str, Quote], budget_usd: float) -> dict[str, Any]:
    """A table for the person; the same as a value."""
    from rich.table import Table

    table = Table(title="What it would cost (nothing was sent)", title_justify="left")
    for heading in ("", "talks", "turns", "calls", "M tokens in", "from cache", "out", "USD"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, each in found.items():
        counts = (f"{count:,}" for count in (each.conversations, each.turns, each.calls))
        tokens = (each.usage.prompt, each.usage.cache_read, each.usage.output)
        millions = (f"{count / 1e6:,.2f}" for count in tokens)
        table.add_row(name, *counts, *millions, f"{each.usd:.2f}")
    console.show(table)
    for basis in dict.fromkeys(each.basis for each in found.values()):
        console.say(f"Basis: {basis}.")
    console.say(f"The budget is ${budget_usd:.2f} (calls.budget_usd).")
    quotes = {
        name: {**each._asdict(), "usage": each.usage._asdict(), "usd": round(each.usd, 4)}
        for name, each in found.items()
    }
    return {**quotes, "budget_usd": budget_usd}
