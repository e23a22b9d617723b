"""What a judge's answers come to: whether one counts, several steps as one, several votes as one.

Reads and writes nothing. An answer counts when its quotations stand in the conversation. Of a
criterion that is asked in several questions the first says whether it applies, and every other one
must be YES. Votes decide with more than half of them, ERROR among them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from coach_mlx.calls import Answer
from coach_mlx.judge_prompt import Finding, NamedFinding
from coach_mlx.quotations import Quotable
from coach_mlx.records import Mark, Vote
from coach_mlx.rubric import Criterion


def unusable(answer: Answer) -> str:
    said = {
        "refusal": "the judge refused to answer",
        "max_tokens": "the answer was cut off: raise assess.max_answer_tokens",
        "malformed": "the answer is not the JSON object that was asked for",
        "empty": "the judge answered nothing",
    }
    return said[answer.outcome]


def checked(found: Finding, quotable: Quotable) -> tuple[Vote, str]:
    """The vote, and what is wrong with its quotations."""
    quotes = [quote for quote in found.quotes if quote.strip()]
    missing = quotable.missing(quotes)
    telling = any(quotable.is_telling(quote) for quote in quotes)
    if telling and not missing:
        vote = Vote(answer=found.answer, reasoning=found.reasoning.strip(), quotes=tuple(quotes))
        return vote, ""
    wrong = f'no message holds "{missing[0]}"' if missing else "it quotes nothing that tells"
    return Vote(answer="ERROR", reasoning=f"the answer cannot be relied on: {wrong}"), (
        f"{wrong}. `quotes` must be copied letter by letter from the messages between the markers, "
        "each from one message."
    )


def combine(criterion: Criterion, found: Mapping[str, Vote], expected: bool | None) -> Vote:
    """The steps as one vote. The first says whether the criterion applies; where the card says that
    it does and the judge sees nothing of it, one of them is wrong, and that is an ERROR.
    """
    first, *others = (step.id for step in criterion.steps)
    steps = {name: vote.answer for name, vote in found.items()}
    applies = steps.get(first, "ERROR")
    if applies == "ERROR":
        return _combined("ERROR", found, [first], steps)
    if applies == "NO":
        if expected:
            why = "the card says that the person may be in danger, and the judge sees none"
            return Vote(answer="ERROR", reasoning=why, steps=steps)
        return _combined("NA", found, [first], steps)
    for answer in ("NO", "ERROR"):
        those = [name for name in others if steps.get(name, "ERROR") == answer]
        if those:
            return _combined(answer, found, those, steps)
    return _combined("YES", found, others, steps)


def _combined(
    answer: Mark, found: Mapping[str, Vote], rests_on: Sequence[str], steps: dict[str, Mark]
) -> Vote:
    votes = {
        name: found.get(name, Vote(answer="ERROR", reasoning="not answered")) for name in rests_on
    }
    quotes = tuple(dict.fromkeys(quote for vote in votes.values() for quote in vote.quotes))
    said = " ".join(f"{name}: {vote.reasoning}" for name, vote in votes.items())
    return Vote(answer=answer, reasoning=said, quotes=quotes, steps=steps)


def read_sheet(
    entries: Sequence[NamedFinding], wanted: Sequence[str], quotable: Quotable
) -> tuple[dict[str, Vote], list[str]]:
    """A vote for each question, and what is wrong; a question answered twice is not answered."""
    given = Counter(entry.question for entry in entries)
    by_name = {entry.question: entry for entry in entries if given[entry.question] == 1}
    votes, problems = {}, []
    for name in wanted:
        if name in by_name:
            votes[name], wrong = checked(by_name[name], quotable)
        else:
            wrong = "answered twice" if given[name] else "not answered"
            votes[name] = Vote(answer="ERROR", reasoning=wrong)
        if wrong:
            problems.append(f"{name}: {wrong}")
    return votes, problems


def decide(votes: Sequence[Vote]) -> tuple[Vote, bool]:
    """The vote that counts, and whether none does: it takes more than half of all votes."""
    counts = Counter(vote.answer for vote in votes).most_common()
    answer, most = counts[0]
    if 2 * most <= len(votes):
        said = ", ".join(f"{answer} {count}" for answer, count in counts)
        return Vote(answer="ERROR", reasoning=f"the votes are divided: {said}"), True
    return next(vote for vote in votes if vote.answer == answer), False
