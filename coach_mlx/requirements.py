"""What a probe asks of the coach, put to a judge: each must and must-not as a yes/no question.

Reads and writes nothing. All of a probe's are one call, each answered with quotations that must
stand in the talk, and each asked so that YES is good. No passport covers these questions, so what
they find is shown and decides nothing.
"""

from coach_mlx.calls import Call
from coach_mlx.judge import Talk, ask_sheet
from coach_mlx.judge_prompt import Sheet
from coach_mlx.records import Vote
from coach_mlx.replay import Script

TOKENS = 150
"""Of an answer to one of them, at most."""
TURNS = (
    "Where a question names a turn: turn N is the person's Nth message (message 2N - 1) and the "
    "coach's reply to it (message 2N)."
)


def questions(script: Script) -> dict[str, str]:
    """By name, M1 for the first must, N1 for the first must-not."""
    musts = {
        f"M{place}": f"Does the coach do this? {text}"
        for place, text in enumerate(script.must, start=1)
    }
    nots = {
        f"N{place}": f"Is the coach free of this, in every reply? {text}"
        for place, text in enumerate(script.must_not, start=1)
    }
    return {**musts, **nots}


def requirement_call(talk: Talk, script: Script, sample: int) -> Call:
    asked = questions(script)
    lines = [
        "Answer each of these questions, one entry a question, under its name in `question`.",
        TURNS,
        "",
        *(f"{name}: {text}" for name, text in asked.items()),
    ]
    return talk.opening._replace(
        note="\n".join(lines), sample=sample, schema=Sheet, max_tokens=TOKENS * len(asked)
    )


async def ask_requirements(talk: Talk, script: Script, votes: int) -> dict[str, tuple[Vote, ...]]:
    """Every vote on every one of a probe's."""
    wanted = list(questions(script))
    sheets = [
        await ask_sheet(talk, requirement_call(talk, script, sample), wanted)
        for sample in range(votes)
    ]
    return {name: tuple(sheet[name] for sheet in sheets) for name in wanted}
