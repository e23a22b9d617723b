"""A card, or all of them, through the writers: who tries first, who again, and who fills in.

Reads and writes nothing itself; `done` is given each conversation or failure as it comes.
"""

from collections.abc import Awaitable, Callable, Sequence

from coach_mlx import message_batches
from coach_mlx.calls import Answer, Call, split_name
from coach_mlx.dialogue import Cast, Failure, Unwritten, read_whole, whole_call, write
from coach_mlx.llm import Models
from coach_mlx.records import Conversation, Scenario

WHOLE_ATTEMPTS = 2


Ask = Callable[[Call], Awaitable[Answer]]


async def write_one(card: Scenario, cast: Cast, ask: Ask) -> Conversation | Failure:
    """The conversation, in either mode; of what is refused, the fallback model's."""
    write_it = _write_at_once if cast.settings.mode == "whole" else write
    try:
        return await write_it(card, cast, ask)
    except Unwritten as error:
        fallback = cast.settings.fallback_model
        if error.kind != "refusal" or fallback is None:
            return cast.failure(card, error)
    try:
        return await write_it(card, cast.filled_by(fallback), ask)
    except Unwritten as error:
        return cast.failure(card, error)


async def _write_at_once(card: Scenario, cast: Cast, ask: Ask) -> Conversation:
    """In one call, and one more where it slipped. Raises: Unwritten."""
    wrong = ""
    for attempt in range(WHOLE_ATTEMPTS):
        answer = await ask(whole_call(card, cast, attempt, wrong))
        try:
            return read_whole(card, answer, cast)
        except Unwritten as error:
            if error.kind == "refusal" or attempt + 1 == WHOLE_ATTEMPTS:
                raise
            wrong = error.detail
    raise AssertionError("there is no attempt")


async def write_whole(
    todo: Sequence[Scenario],
    cast: Cast,
    models: Models,
    done: Callable[[Conversation | Failure], None],
    batch: bool,
) -> None:
    """Round after round: all at once, then once more what slipped, then the fallback's."""
    left: list[tuple[Scenario, Cast, str]] = [(card, cast, "") for card in todo]
    attempt = 0
    while left:
        again: list[tuple[Scenario, Cast, str]] = []

        def take(
            card: Scenario,
            its: Cast,
            answer: Answer,
            attempt: int = attempt,
            again: list[tuple[Scenario, Cast, str]] = again,
        ) -> None:
            try:
                done(read_whole(card, answer, its))
            except Unwritten as error:
                fallback = its.settings.fallback_model
                if error.kind == "refusal" and fallback and its.coach != fallback:
                    again.append((card, its.filled_by(fallback), ""))
                elif error.kind != "refusal" and attempt + 1 < WHOLE_ATTEMPTS:
                    again.append((card, its, error.detail))
                else:
                    done(cast.failure(card, error))

        await _round(left, attempt, models, take, batch)
        left, attempt = again, attempt + 1


async def _round(
    left: Sequence[tuple[Scenario, Cast, str]],
    attempt: int,
    models: Models,
    take: Callable[[Scenario, Cast, Answer], None],
    batch: bool,
) -> None:
    batched = [one for one in left if batch and split_name(one[1].coach)[0] == "anthropic"]
    calls = {whole_call(card, cast, attempt, wrong): (card, cast) for card, cast, wrong in batched}
    for model in sorted({call.model for call in calls}):
        of_model = [call for call in calls if call.model == model]
        async for call, answer in message_batches.ask_all(models, of_model):
            take(*calls[call], answer)

    async def one(entry: tuple[Scenario, Cast, str]) -> None:
        card, cast, wrong = entry
        take(card, cast, await models.ask(whole_call(card, cast, attempt, wrong)))

    rest = [entry for entry in left if entry not in batched]
    await models.each(rest, one, {cast.coach for _, cast, _ in rest})
