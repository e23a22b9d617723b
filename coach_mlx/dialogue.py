"""One scenario card becomes one conversation.

Reads and writes nothing itself: every word comes through `ask`. Turn by turn, a planner thinks up
the person's particulars, a simulated client writes each message, and a coach answers it; the coach
knows the talk and nothing of the card. Or one call writes the whole. Fails: Unwritten, with the
reason and what was written so far.

Each side sees the talk as its own: its messages are the assistant's, the other's the user's. What
changes with every turn stands in a note after the talk, so that all before it can be cached.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from coach_mlx.arcs import Arc, draw_arc
from coach_mlx.calls import Answer, Call
from coach_mlx.config import GenerateSection
from coach_mlx.records import Conversation, Framework, Message, Provenance, Record, Scenario
from coach_mlx.slips import client_slip, coach_slip

Ask = Callable[[Call], Awaitable[Answer]]
PLAN_TOKENS = (600, 60)
"""Of a plan: so many, and so many more for each beat."""
THINKING_TOKENS = 4000
TOKENS_PER_WORD = 2
COACH_WORDS_AT_MOST = 45
"""Of the coach in each turn of a whole conversation, on average: room, not a wish."""
RETRIES = 1


class Prompts(NamedTuple):
    """The texts of a recipe."""

    coach: str
    client: str
    planner: str
    whole: str
    frameworks: dict[Framework, str]

    def fitting(self, card: Scenario) -> str:
        """The approaches of the card, the first one leading."""
        chosen = "\n\n".join(self.frameworks[name] for name in card.frameworks)
        return f"# Approaches that fit this talk\n\n{chosen}"


class Plan(BaseModel):
    """The planner's answer."""

    model_config = ConfigDict(extra="ignore")
    facts: list[str]
    opening: str
    beats: list[str]
    ending: str


class Spoken(BaseModel):
    speaker: Literal["person", "coach"]
    text: str


class Whole(BaseModel):
    """A whole conversation as one call writes it."""

    messages: list[Spoken]


class Unwritten(Exception):
    """The conversation did not come about; `kind` is slip, or the outcome of the last answer."""

    def __init__(self, kind: str, detail: str, messages: list[Message]) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.messages = kind, detail, tuple(messages)


class Failure(Record):
    """A card that did not become a conversation."""

    scenario: Scenario
    kind: str
    detail: str
    recipe: str
    fallback: str | None
    """The model that was to write what the others refuse, and did not either."""
    messages: tuple[Message, ...]


class Cast(NamedTuple):
    """Who writes, and from what."""

    client: str
    coach: str
    planner: str
    prompts: Prompts
    settings: GenerateSection
    recipe: str

    def writers(self) -> list[str]:
        """The models, each once."""
        return list(dict.fromkeys((self.coach, self.client, self.planner)))

    def filled_by(self, model: str) -> "Cast":
        """The same recipe with one model in every part."""
        return self._replace(client=model, coach=model, planner=model)

    def failure(self, card: Scenario, error: Unwritten) -> Failure:
        return Failure(
            scenario=card,
            kind=error.kind,
            detail=error.detail,
            recipe=self.recipe,
            fallback=self.settings.fallback_model,
            messages=error.messages,
        )

    def provenance(self) -> Provenance:
        return Provenance(
            mode=self.settings.mode, client=self.client, coach=self.coach, recipe=self.recipe
        )

    def call(self, model: str, role: str, **facts: Any) -> Call:
        return Call(
            model=model,
            purpose=f"generate:{role}",
            temperature=self.settings.temperature,
            effort=self.settings.effort,
            group=self.recipe,
            **facts,
        )


def describe_card(card: Scenario) -> str:
    """The card as the person's side reads it; ids and criteria are not its business."""
    person = card.persona
    facts = {
        "Topic": f"{card.topic.replace('_', ' ')}, {card.subtopic.replace('_', ' ')}",
        "Situation": card.situation or "not given: make one that fits the topic",
        "Age": person.age_band,
        "Circumstances": person.circumstances,
        "Voice": person.voice,
        "Writing": card.style,
        "Difficulty": card.difficulty,
        "Resists": person.resistance,
        "Holds back": person.withheld,
        "Danger": card.risk,
    }
    return "# The card\n\n" + "\n".join(f"{name}: {value}" for name, value in facts.items())


async def write(card: Scenario, cast: Cast, ask: Ask) -> Conversation:
    """Turn by turn. Raises: Unwritten."""
    arc = draw_arc(card)
    plan = await plan_talk(card, arc, cast, ask)
    messages: list[Message] = []
    for turn in range(1, arc.turns + 1):
        said = await client_turn(card, arc, plan, messages, turn, cast, ask)
        messages.append(Message(role="user", content=said))
        reply = await _coach_turn(card, arc, messages, turn, cast, ask)
        messages.append(Message(role="assistant", content=reply))
    return Conversation(messages=tuple(messages), scenario=card, made=cast.provenance())


async def plan_talk(card: Scenario, arc: Arc, cast: Cast, ask: Ask) -> Plan:
    """Particulars help and are not needed: a planner that fails (a small model) leaves the card as
    it is. One that refuses is believed.
    """
    answer = await ask(plan_call(card, arc, cast))
    if answer.outcome == "refusal":
        raise Unwritten("refusal", "the planner refused", [])
    plan: Plan = answer.value or Plan(facts=[], opening="", beats=[], ending="")
    beats = plan.beats[: arc.turns] + [""] * (arc.turns - len(plan.beats))
    return plan.model_copy(update={"beats": beats})


def plan_call(card: Scenario, arc: Arc, cast: Cast) -> Call:
    asked = f"{describe_card(card)}\n\n# The arc\n\n{arc.describe()}"
    return cast.call(
        cast.planner,
        "plan",
        system=(cast.prompts.planner,),
        messages=(Message(role="user", content=asked),),
        max_tokens=PLAN_TOKENS[0] + PLAN_TOKENS[1] * arc.turns,
        schema=Plan,
        once=True,
    )


def client_call(
    card: Scenario, arc: Arc, plan: Plan, messages: list[Message], turn: int, cast: Cast
) -> Call:
    """The talk with the sides exchanged: to the client, the coach is the user."""
    private = "\n".join(
        [
            describe_card(card),
            "\n# Your private plan\n",
            *(f"- {fact}" for fact in plan.facts),
            *([f"\nHow it begins: {plan.opening}"] if plan.opening else []),
            f"\nHow it ends: {plan.ending or arc.ending}",
        ]
    )
    swapped = [Message(role="user", content="Here the talk begins.")]
    for message in messages:
        role: Literal["user", "assistant"] = "user" if message.role == "assistant" else "assistant"
        swapped.append(Message(role=role, content=message.content))
    return cast.call(
        cast.client,
        "client",
        system=(cast.prompts.client, private),
        messages=tuple(swapped),
        note=_client_note(arc, plan, turn),
        max_tokens=cast.settings.max_reply_tokens,
    )


def _client_note(arc: Arc, plan: Plan, turn: int) -> str:
    start = "Begin: your first message" if turn == 1 else f"Your message {turn} of {arc.turns}"
    parts = [f"{start}. About {arc.words[turn - 1]} words."]
    if turn == arc.silence:
        parts = [f"{start}. A silence: write almost nothing."]
    if plan.beats[turn - 1]:
        parts.append(f"Beat: {plan.beats[turn - 1]}")
    if turn == arc.reveal:
        parts.append("What you hold back comes out now, in your own way.")
    elif arc.reveal is None or turn < arc.reveal:
        parts.append("What you hold back stays unsaid.")
    if turn == arc.shift:
        parts.append("Leave the subject.")
    if turn == arc.turns:
        parts.append(f"Your last message: the talk ends after the next reply, {arc.ending}.")
    return f"[{' '.join(parts)}]"


def coach_call(card: Scenario, arc: Arc, messages: list[Message], turn: int, cast: Cast) -> Call:
    last = ": the last one" if turn == arc.turns else ""
    return cast.call(
        cast.coach,
        "coach",
        system=(cast.prompts.coach, cast.prompts.fitting(card)),
        messages=tuple(messages),
        note=f"[Turn {turn} of {arc.turns}{last}.]",
        max_tokens=cast.settings.max_reply_tokens,
    )


async def client_turn(
    card: Scenario,
    arc: Arc,
    plan: Plan,
    messages: list[Message],
    turn: int,
    cast: Cast,
    ask: Ask,
) -> str:
    call = client_call(card, arc, plan, messages, turn, cast)
    mine, theirs = _of("user", messages), _of("assistant", messages)

    def slip(text: str) -> str | None:
        return client_slip(text, card, mine, theirs, turn == arc.turns)

    return await _spoken(call, ask, slip, messages)


async def _coach_turn(
    card: Scenario, arc: Arc, messages: list[Message], turn: int, cast: Cast, ask: Ask
) -> str:
    call = coach_call(card, arc, messages, turn, cast)
    mine, theirs = _of("assistant", messages), _of("user", messages)

    def slip(text: str) -> str | None:
        return coach_slip(text, mine, theirs, turn == arc.turns)

    return await _spoken(call, ask, slip, messages)


def _of(role: str, messages: list[Message]) -> list[str]:
    return [message.content for message in messages if message.role == role]


async def _spoken(
    call: Call, ask: Ask, slip: Callable[[str], str | None], messages: list[Message]
) -> str:
    """One message; a slip or an empty answer is told to the model, which gets one more chance."""
    role = call.purpose.removeprefix("generate:")
    for attempt in range(RETRIES + 1):
        answer = await ask(call)
        if answer.outcome == "refusal":
            raise Unwritten("refusal", f"the {role} refused", messages)
        wrong = slip(answer.text) if answer.text else None
        if answer.text and wrong is None:
            return answer.text
        why = wrong or answer.outcome
        note = f"{call.note} [Your last try did not fit: {why}. Write only your own next message.]"
        call = call._replace(note=note, sample=attempt + 1)
    kind = "slip" if wrong else answer.outcome
    raise Unwritten(kind, f"the {role}: {why}, twice", messages)


def whole_call(card: Scenario, cast: Cast, attempt: int = 0, wrong: str = "") -> Call:
    """One call for the whole conversation; `wrong` says what did not fit at the attempt before."""
    arc = draw_arc(card)
    parts = [
        cast.prompts.fitting(card),
        describe_card(card),
        f"# The arc\n\n{arc.describe()}\nTurns: exactly {arc.turns}.",
        f"An earlier try did not fit: {wrong}. Write it anew." if wrong else "",
    ]
    asked = "\n\n".join(part for part in parts if part)
    coach_words = COACH_WORDS_AT_MOST * arc.turns
    return cast.call(
        cast.coach,
        "whole",
        system=(f"{cast.prompts.coach}\n\n{cast.prompts.whole}",),
        messages=(Message(role="user", content=asked),),
        max_tokens=TOKENS_PER_WORD * (sum(arc.words) + coach_words) + THINKING_TOKENS,
        schema=Whole,
        sample=attempt,
        once=True,
    )


def read_whole(card: Scenario, answer: Answer, cast: Cast) -> Conversation:
    """The conversation in a whole answer. Raises: Unwritten."""
    if answer.outcome != "ok":
        raise Unwritten(answer.outcome, "the whole conversation", [])
    roles = {"person": "user", "coach": "assistant"}
    written: Whole = answer.value
    try:
        conversation = Conversation.model_validate(
            {
                "messages": [
                    {"role": roles[one.speaker], "content": one.text} for one in written.messages
                ],
                "scenario": card,
                "made": cast.provenance(),
            }
        )
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        raise Unwritten("malformed", f"the whole conversation: {first}", []) from None
    wrong = _whole_slip(card, conversation)
    if wrong:
        raise Unwritten("slip", wrong, list(conversation.messages))
    return conversation


def _whole_slip(card: Scenario, conversation: Conversation) -> str | None:
    messages, turns = conversation.messages, conversation.turns
    if turns > card.turns or turns < max(2, (3 * card.turns) // 4):
        return f"it has {turns} turns instead of {card.turns}"
    for place, message in enumerate(messages):
        before = list(messages[:place])
        mine = _of(message.role, before)
        theirs = _of("user" if message.role == "assistant" else "assistant", before)
        last = place >= len(messages) - 2
        if message.role == "user":
            wrong = client_slip(message.content, card, mine, theirs, last)
        else:
            wrong = coach_slip(message.content, mine, theirs, last)
        if wrong:
            return f"message {place + 1} {wrong}"
    return None
