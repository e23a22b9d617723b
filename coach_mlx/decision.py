"""deploy, iterate, try DPO, unsafe or inconclusive: one word from the numbers, by rules set before.

Reads and writes nothing. Safety is a veto that no average buys back. After it, better means: the
served coach's score is above the base's by the margin, and not by chance. What the holdout is too
small to show is inconclusive, and the answer says how many more scenarios would show it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from coach_mlx.comparison import (
    CriterionRow,
    Decision,
    Difference,
    GroupRow,
    Safety,
    SideBySide,
    Weight,
    Word,
)
from coach_mlx.config import EvaluateSection
from coach_mlx.power import pairs_needed
from coach_mlx.safety import confirmed
from coach_mlx.taxonomy import quotas

EXCERPTS = 3
MOST_SHIFT = 2.0
"""A topic's share is at most doubled and at least halved at once."""
LEAST_TOPIC = 5
"""Held-out conversations of a topic, for its weight to be moved."""


class Findings(NamedTuple):
    """What a decision rests on."""

    score: Difference
    """Served against base, the primary."""
    loss: Difference | None
    safety: Safety
    judged: bool
    why_not_safe: str
    """Why no result of this judge may be called safe; empty where it may."""
    served: str
    settings: EvaluateSection


def decide(found: Findings) -> tuple[Word, str]:
    """The word, and the reason in one sentence."""
    veto = _veto(found)
    if veto:
        return "unsafe", veto
    if not found.judged:
        return "inconclusive", _unjudged(found)
    score, settings = found.score, found.settings
    p = p_of(score)
    if score.difference is None or score.relative is None or p is None:
        return "inconclusive", f"nothing can be tested: {score.why or 'no pair was judged'}"
    shown = p < settings.p_value
    words = _said(score)
    if shown and score.difference < 0:
        return "iterate", f"the coach is worse than the base: {words}"
    if breaks_more(found.safety, settings.p_value):
        broken = found.safety.broken
        return "iterate", (
            f"its replies loop, leak or break off in {broken.only_after} scenarios in which the "
            f"base's do not: {words}"
        )
    if shown and score.relative >= settings.min_improvement:
        doubt = _doubt(found)
        if doubt:
            return "inconclusive", f"better ({words}), and {doubt}"
        return "deploy", f"better by the margin and no less safe: {words}"
    if shown:
        return "iterate", f"better, by less than the margin of {_margin(settings)}: {words}"
    return _not_shown(found, words)


def _veto(found: Findings) -> str:
    """Why it is unsafe; empty where it is not, or where too few scenarios can say."""
    safety = found.safety
    hard = confirmed(safety, [found.served])
    if hard:
        first = hard[0]
        more = f", and {len(hard) - 1} more" if len(hard) > 1 else ""
        return (
            f"a confirmed failure of safety: {first.source} in {first.scenario}{more}. No average "
            "buys it back"
        )
    worse = safety.rates.only_after > safety.rates.only_before
    p = safety.rates.p_mcnemar
    if worse and p is not None and p < found.settings.p_value:
        return f"less safe than the base: {safety.why}"
    if found.judged and not safety.shown and safety.newly.found:
        return f"not shown to be as safe as the base: {safety.why}"
    return ""


def _doubt(found: Findings) -> str:
    if not found.safety.shown:
        return f"too few scenarios to show that it is as safe as the base: {found.safety.why}"
    if found.why_not_safe:
        return f"no result of this judge may be called safe: {found.why_not_safe}"
    return ""


def _unjudged(found: Findings) -> str:
    loss = _said_of_loss(found.loss)
    return f"nobody judged the replies, so nothing shows that they are better or safe{loss}"


def p_of(score: Difference) -> float | None:
    """The t-test's; where every scenario has the same difference there is none, and the sign-flip
    test's takes its place.
    """
    return score.p_sign_flip if score.p_t is None else score.p_t


def breaks_more(safety: Safety, p_value: float) -> bool:
    broken = safety.broken
    more = broken.only_after > broken.only_before
    return more and broken.p_mcnemar is not None and broken.p_mcnemar < p_value


def _not_shown(found: Findings, words: str) -> tuple[Word, str]:
    """The difference may be chance: is the margin out of reach, or the holdout too small?"""
    score, settings = found.score, found.settings
    wanted = settings.min_improvement * (score.mean_before or 0.0)
    if score.high is not None and score.high < wanted:
        return _no_better(found, f"the margin of {_margin(settings)} is out of reach: {words}")
    return "inconclusive", f"it may be chance: {words}"


def _no_better(found: Findings, why: str) -> tuple[Word, str]:
    loss = found.loss
    learned = (
        loss is not None
        and loss.difference is not None
        and loss.difference < 0
        and loss.p_t is not None
        and loss.p_t < found.settings.p_value
    )
    if learned:
        return "try DPO", f"it learned the words and not the craft: {why}{_said_of_loss(loss)}"
    return "iterate", why


def _said(score: Difference) -> str:
    low = "" if score.low is None else f", 95 % interval {score.low:+.3f} to {score.high:+.3f}"
    p = "" if p_of(score) is None else f", p = {p_of(score):.2g}"
    relative = "" if score.relative is None else f" ({score.relative:+.1%})"
    return f"{score.difference:+.3f}{relative} on {score.n} held-out scenarios{low}{p}"


def _said_of_loss(loss: Difference | None) -> str:
    if loss is None or loss.difference is None:
        return ""
    p = "" if loss.p_t is None else f", p = {loss.p_t:.2g}"
    return f"; held-out loss {loss.difference:+.3f} nats a token{p}"


def _margin(settings: EvaluateSection) -> str:
    return f"{settings.min_improvement:.0%}"


# --- what to do next


def explain(
    word: Word,
    reason: str,
    found: Findings,
    criteria: Sequence[CriterionRow],
    topics: Sequence[GroupRow],
    transcripts: Sequence[SideBySide],
    shares: Mapping[str, float],
    name: str,
) -> Decision:
    """`shares` are the taxonomy's topics as they are."""
    more = _more_scenarios(found)
    weights = propose_weights(topics, shares) if word == "iterate" else ()
    return Decision(
        word=word,
        passed=word == "deploy",
        reason=reason,
        reasons=tuple(_reasons(word, found, criteria, topics, transcripts)),
        todo=tuple(_todo(word, found, weights, more, name)),
        unsaid=tuple(_unsaid(found)),
        weights=weights,
        more_scenarios=more if word == "inconclusive" and found.judged else None,
    )


def _reasons(
    word: Word,
    found: Findings,
    criteria: Sequence[CriterionRow],
    topics: Sequence[GroupRow],
    transcripts: Sequence[SideBySide],
) -> Iterator[str]:
    if found.score.difference is not None:
        yield f"Score, {found.served} against {found.score.before}: {_said(found.score)}."
    if found.loss is not None and found.loss.difference is not None:
        yield f"Loss on the reference replies: {_said_of_loss(found.loss)[2:]}."
    yield f"Safety: {found.safety.why}."
    if word in ("iterate", "try DPO", "unsafe"):
        yield from _held_back(found.served, criteria, transcripts)
        yield from _weak_topics(topics)


def _held_back(
    served: str, criteria: Sequence[CriterionRow], transcripts: Sequence[SideBySide]
) -> Iterator[str]:
    """The criteria that fail most often, each with what the judge said of one."""
    shares = [(one.arms[served].share, one) for one in criteria]
    weak = sorted(
        ((share, one) for share, one in shares if share is not None and share < 1),
        key=lambda pair: pair[0],
    )
    for _, row in weak[:EXCERPTS]:
        passed = row.arms[served]
        excerpt = next(
            (
                f' In {one.scenario}: "{one.verdicts[served].reasonings[row.criterion]}"'
                for one in transcripts
                if served in one.verdicts and row.criterion in one.verdicts[served].failed
            ),
            "",
        )
        yield (
            f"{row.criterion} {row.name} holds it back: {passed.found} of {passed.n} pass.{excerpt}"
        )


def _weak_topics(topics: Sequence[GroupRow]) -> Iterator[str]:
    known = [one for one in topics if one.difference.mean_after is not None]
    known.sort(key=lambda one: one.difference.mean_after or 0.0)
    for one in known[:2]:
        yield (
            f"Weak on {one.name.replace('_', ' ')}: mean score {one.difference.mean_after:.3f} "
            f"on {one.difference.n} scenarios."
        )


def _todo(
    word: Word, found: Findings, weights: Sequence[Weight], more: int | None, name: str
) -> Iterator[str]:
    if word == "deploy":
        yield f"Serve it: `coach deploy`, then `ollama run {name}`"
    elif word == "unsafe":
        yield "Do not serve it. Read the findings one by one, below."
        yield "Then look at what it was trained on: `coach lint-data output/conversations.jsonl`"
    elif word == "try DPO":
        yield "`output/preference_pairs.jsonl` holds the pairs that the judge told apart, for DPO."
        yield "They come from held-out scenarios: a model trained on them needs a new holdout."
    elif word == "iterate":
        if weights:
            yield "Write more of what is weak: the proposed weights of the taxonomy stand below."
        yield "Then: `coach scenarios && coach generate && coach assess && coach run`"
    elif not found.judged:
        yield "Let a judge read the replies: `coach evaluate --quote --judge PROVIDER/NAME`"
        yield "`ollama/NAME`, `mlx/FOLDER` or `gguf/FILE` keep them on this machine."
    elif found.why_not_safe:
        yield "Measure the judge, or take another, then: `coach evaluate`"
    if word == "inconclusive" and found.judged and more:
        yield f"About {more} more held-out scenarios would settle it (`dataset.holdout_fraction`)."


def _more_scenarios(found: Findings) -> int | None:
    """So many more show a difference like the one found, and safety without one new failure."""
    score, wanted = found.score, [found.safety.least_scenarios - found.safety.rates.n]
    p = p_of(score)
    chance = p is not None and p >= found.settings.p_value
    if chance and score.d_z is not None and score.d_z > 0:
        needed = pairs_needed(score.d_z).n
        wanted.append(0 if needed is None else needed - score.n)
    most = max(wanted)
    return most if most > 0 else None


def _unsaid(found: Findings) -> Iterator[str]:
    if not found.judged:
        yield "Whether the replies are good: nobody judged them."
        yield "Whether they are safe: detectors find what words can show, and are a floor."
    elif found.why_not_safe:
        yield f"Whether they are safe: {found.why_not_safe}."
    if found.loss is None or found.loss.difference is None:
        yield "How likely the reference replies are: these models do not say."


def propose_weights(topics: Sequence[GroupRow], shares: Mapping[str, float]) -> tuple[Weight, ...]:
    """More of the topics in which the served coach loses most of the score: each share times its
    lack over the mean lack, at most doubled or halved, and all of them one again. In hundredths.
    """
    lack = {
        one.name: 1 - one.difference.mean_after
        for one in topics
        if one.difference.mean_after is not None and one.difference.n >= LEAST_TOPIC
    }
    if not shares or len(lack) < 2:
        return ()
    mean = sum(lack.values()) / len(lack)
    if mean == 0:
        return ()
    raw = {
        topic: now * min(MOST_SHIFT, max(1 / MOST_SHIFT, lack.get(topic, mean) / mean))
        for topic, now in shares.items()
    }
    total = sum(raw.values())
    hundredths = quotas({topic: value / total for topic, value in raw.items()}, 100)
    return tuple(
        Weight(topic=topic, now=now, proposed=hundredths[topic] / 100)
        for topic, now in shares.items()
    )
