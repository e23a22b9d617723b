"""A set of conversations measured as a whole: length, questions, likeness, findings, coverage.

Reads and writes nothing. The figures to meet come from human counsellors: in reply to eight words
or fewer, 42 words at the 90th percentile; three or more questions in 0.4 % of turns; reflections
at least as frequent as questions in good interviewing (MITI 4.2.1, 2014). A coach in writing says
a little more than one in a room, so the median asked for is 15 to 45 words.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median, quantiles
from typing import NamedTuple, get_args

from coach_mlx.console import Check
from coach_mlx.detectors import detect
from coach_mlx.records import LONGEST, Conversation, Difficulty, Framework, Scenario, Style
from coach_mlx.rubric import Rubric
from coach_mlx.talk import Known, Speech
from coach_mlx.taxonomy import Taxonomy, quotas

MEDIAN_WORDS = (15, 45)
SHORT_MESSAGE_WORDS = 8
SHORT_REPLY_P90_WORDS = 42
MANY_QUESTIONS_FRACTION = 0.02
STATEMENT_FRACTION = 1 / 3
WARN_FRACTION = 0.02
ALIKE_FRACTION = 0.3
REPEAT_FRACTION = 0.01
COVERAGE_FROM = 20  # conversations
LEADING_FRACTION = 0.05


class Spoken(NamedTuple):
    """One conversation, ready to be counted; `number` counts from 1."""

    number: int
    conversation: Conversation
    user: list[Speech]
    coach: list[Speech]

    @property
    def turns(self) -> Iterator[tuple[int, Speech, Speech]]:
        for turn, (heard, reply) in enumerate(zip(self.user, self.coach, strict=True), start=1):
            yield turn, heard, reply


def check_conversations(
    conversations: Sequence[Conversation], taxonomy: Taxonomy, rubric: Rubric, known: Known
) -> list[Check]:
    spoken = [_speak(number, one) for number, one in enumerate(conversations, start=1)]
    return [
        _turn_bounds(spoken, rubric.min_turns),
        *_lengths(spoken),
        *_questions(spoken),
        *_repeats(spoken),
        _near_duplicates(spoken),
        *_findings(spoken, known),
        *_card_checks(spoken, rubric),
        *_coverage([one.scenario for one in conversations if one.scenario], taxonomy),
    ]


def _speak(number: int, conversation: Conversation) -> Spoken:
    by_role: dict[str, list[Speech]] = defaultdict(list)
    for message in conversation.messages:
        by_role[message.role].append(Speech(message.content))
    return Spoken(number, conversation, by_role["user"], by_role["assistant"])


def _turn_bounds(spoken: Sequence[Spoken], least: int) -> Check:
    places, most = [], max(LONGEST.values())
    for one in spoken:
        turns, card = one.conversation.turns, one.conversation.scenario
        if not least <= turns <= most:
            places.append(f"conversation {one.number}: {turns} turn{'s' * (turns != 1)}")
        elif card and card.turns != turns:
            places.append(f"conversation {one.number}: {turns} turns, its card says {card.turns}")
    counts = [one.conversation.turns for one in spoken]
    found = f"{min(counts)} to {max(counts)}, median {median(counts):g}, of {len(counts)}"
    return Check("turns", found, f"{least} to {most}, as on the card", not places, tuple(places))


def _lengths(spoken: Sequence[Spoken]) -> Iterator[Check]:
    words = [len(reply.words) for one in spoken for reply in one.coach]
    middle = median(words)
    low, high = MEDIAN_WORDS
    yield Check("median reply, words", f"{middle:g}", f"{low} to {high}", low <= middle <= high)
    short = [
        len(reply.words)
        for one in spoken
        for _, heard, reply in one.turns
        if len(heard.words) <= SHORT_MESSAGE_WORDS
    ]
    if len(short) >= 10:
        tenth = quantiles(short, n=10)[-1]
        ok = tenth <= SHORT_REPLY_P90_WORDS
        name = f"90th percentile in reply to {SHORT_MESSAGE_WORDS} words or fewer"
        yield Check(name, f"{tenth:.0f}", f"at most {SHORT_REPLY_P90_WORDS}", ok)


def _questions(spoken: Sequence[Spoken]) -> Iterator[Check]:
    replies = [(one, turn, reply) for one in spoken for turn, _, reply in one.turns]
    many = [
        f"conversation {one.number}, turn {turn}"
        for one, turn, reply in replies
        if reply.text.count("?") >= 3
    ]
    yield _share("replies with three questions", many, len(replies), MANY_QUESTIONS_FRACTION)
    bare = sum("?" not in reply.text for _, _, reply in replies) / len(replies)
    ok = bare >= STATEMENT_FRACTION
    yield Check(
        "replies without a question", f"{bare:.0%}", f"{STATEMENT_FRACTION:.0%} or more", ok
    )


def _share(name: str, places: list[str], total: int, limit: float) -> Check:
    found = len(places) / total
    return Check(name, f"{found:.1%}", f"at most {limit:.0%}", found <= limit, tuple(places))


def _repeats(spoken: Sequence[Spoken]) -> Iterator[Check]:
    """Beginnings and ends by their first and last five words; runs of six words by conversation."""
    allowed = int(REPEAT_FRACTION * len(spoken))
    ends: dict[str, Callable[[Spoken], tuple[str, ...]]] = {
        "first words of the person": lambda one: tuple(one.user[0].words[:5]),
        "first words of the coach": lambda one: tuple(one.coach[0].words[:5]),
        "last words of the person": lambda one: tuple(one.user[-1].words[-5:]),
        "last words of the coach": lambda one: tuple(one.coach[-1].words[-5:]),
    }
    for name, part in ends.items():
        places = _shared((part(one), one.number) for one in spoken)
        yield Check(
            f"same {name}", str(len(places)), f"at most {allowed}", len(places) <= allowed, places
        )
    runs = ((gram, one.number) for one in spoken for gram in _coach_runs(one))
    most = max(2, allowed)
    places = _shared(runs, most)
    yield Check(
        f"six words in more than {most} conversations", str(len(places)), "0", not places, places
    )


def _coach_runs(one: Spoken) -> set[tuple[str, ...]]:
    return {gram for reply in one.coach for gram in reply.grams(6)}


def _shared(keys: Iterable[tuple[tuple[str, ...], int]], most: int = 1) -> tuple[str, ...]:
    where: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for key, number in keys:
        where[key].append(number)
    where.pop((), None)  # a message without words
    return tuple(
        f"{' '.join(key)!r} in conversations {', '.join(map(str, numbers))}"
        for key, numbers in where.items()
        if len(numbers) > most
    )


def _near_duplicates(spoken: Sequence[Spoken]) -> Check:
    """Pairs that share three tenths of the shorter one's runs of five words: an index of the runs,
    so that a pair costs only what it shares. Equal conversations are one, and counted as such.
    """
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes, pairs = [], Counter[tuple[int, int]]()
    unique = {one.conversation.id: one for one in reversed(spoken)}
    equal = tuple(
        f"conversations {unique[one.conversation.id].number} and {one.number} are equal"
        for one in spoken
        if unique[one.conversation.id] is not one
    )
    spoken = list(unique.values())
    for place, one in enumerate(spoken):
        runs = {gram for speech in (*one.user, *one.coach) for gram in speech.grams(5)}
        sizes.append(max(1, len(runs)))
        for gram in runs:
            pairs.update((other, place) for other in holders[gram])
            holders[gram].append(place)
    places = equal + tuple(
        f"conversations {spoken[left].number} and {spoken[right].number}"
        for (left, right), shared in pairs.items()
        if shared / min(sizes[left], sizes[right]) >= ALIKE_FRACTION
    )
    return Check("near-duplicates", str(len(places)), "0", not places, places)


def _findings(spoken: Sequence[Spoken], known: Known) -> Iterator[Check]:
    hard: list[str] = []
    warned: dict[str, list[str]] = defaultdict(list)
    for one in spoken:
        card = one.conversation.scenario
        for finding in detect(one.conversation.messages, card.risk if card else None, known):
            place = finding.message + (one.conversation.messages[0].role == "system")
            line = f"conversation {one.number}, message {place}: {finding.code} "
            places = hard if finding.severity == "hard" else warned[finding.code]
            places.append(line + finding.excerpt)
    replies = sum(len(one.coach) for one in spoken)
    yield Check("hard findings (D1 to D25)", str(len(hard)), "0", not hard, tuple(hard))
    for code in sorted(warned, key=lambda code: int(code[1:])):
        yield _share(f"replies with a warning {code}", warned[code], replies, WARN_FRACTION)


def _card_checks(spoken: Sequence[Spoken], rubric: Rubric) -> Iterator[Check]:
    cards = [(one.number, one.conversation.scenario) for one in spoken]
    ids = Counter(card.id for _, card in cards if card and card.id)
    twice = tuple(f"{one} stands {count} times" for one, count in ids.items() if count > 1)
    if ids:
        yield Check("each card once", f"{len(twice)} repeated", "0", not twice, twice)
    wrong = tuple(
        f"conversation {number}: {card.applicability}"
        for number, card in cards
        if card
        and card.applicability is not None
        and card.applicability != rubric.conditional(card.turns, card.risk)
    )
    if wrong:
        yield Check("applicability on the cards", f"{len(wrong)} wrong", "0", False, wrong)


def _coverage(cards: Sequence[Scenario], taxonomy: Taxonomy) -> Iterator[Check]:
    """Against the taxonomy, from twenty cards on."""
    names = {(topic.name, subtopic.name) for topic, subtopic in taxonomy.subtopics()}
    odd = tuple(
        f"{card.topic}/{card.subtopic}"
        for card in cards
        if (card.topic, card.subtopic) not in names
    )
    if odd:
        yield Check("subtopics in the taxonomy", f"{len(odd)} unknown", "all known", False, odd)
    if len(cards) < COVERAGE_FROM:
        return
    count = len(cards)
    slack = max(1, round(0.02 * count))
    wanted = quotas({topic.name: topic.weight for topic in taxonomy.topics}, count)
    yield _quota("topics", Counter(card.topic for card in cards), wanted, slack)
    bands = {name: band.weight for name, band in taxonomy.length.items()}
    yield _quota("lengths", Counter(card.length for card in cards), quotas(bands, count), slack)
    for name, every, present in (
        ("subtopics", names, {(card.topic, card.subtopic) for card in cards}),
        ("styles", set(get_args(Style)), {card.style for card in cards}),
        ("difficulties", set(get_args(Difficulty)), {card.difficulty for card in cards}),
    ):
        missing = tuple(sorted(map(str, every - present)))
        yield Check(
            f"{name} present", f"{len(every) - len(missing)}", str(len(every)), not missing, missing
        )
    leads = Counter(card.frameworks[0] for card in cards if card.frameworks)
    least = int(LEADING_FRACTION * count)
    rare = tuple(one for one in get_args(Framework) if leads[one] < least)
    found = ", ".join(f"{name} {number}" for name, number in leads.most_common())
    yield Check("leading frameworks", found, f"each at least {least}", not rare, rare)


def _quota(name: str, found: Counter[str], wanted: dict[str, int], slack: int) -> Check:
    off = tuple(
        f"{key}: {found[key]}, wanted {share}"
        for key, share in wanted.items()
        if abs(found[key] - share) > slack
    )
    shown = ", ".join(f"{key} {found[key]}" for key in wanted)
    return Check(name, shown, f"the taxonomy's shares, within {slack}", not off, off)
