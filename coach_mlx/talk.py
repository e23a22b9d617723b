"""A conversation as rules see it: plain letters, own words without quotations, sentences, risk.

Reads and writes nothing. Rules on words go wrong in three ways, each handled here once: look-alike
or invisible characters (NFKC, zero-width characters dropped, typographic quotes made straight),
other people's words (text in quotes, or after "you could say:", is left out of `own`), and meaning
turned round by a "not", an "if", a "she says" or a question mark (`claims`).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from coach_mlx.records import Message, Risk

INVISIBLE = dict.fromkeys(
    code
    for first, last in (
        (0x0, 0x8),  # control characters
        (0xE, 0x1B),
        (0x7F, 0x7F),
        (0xAD, 0xAD),  # soft hyphen
        (0x34F, 0x34F),
        (0x61C, 0x61C),
        (0x115F, 0x1160),  # fillers
        (0x180B, 0x180F),
        (0x200B, 0x200F),  # zero-width spaces and joiners, direction marks
        (0x202A, 0x202E),
        (0x2060, 0x206F),
        (0x3164, 0x3164),
        (0xFE00, 0xFE0F),  # variation selectors
        (0xFEFF, 0xFEFF),
        (0xFFA0, 0xFFA0),
        (0xE0000, 0xE01EF),  # tags
    )
    for code in range(first, last + 1)
)
# What NFKC would take apart is made straight before it: an acute accent used as an apostrophe.
HIDDEN: dict[int, str | None] = {**INVISIBLE, 0xB4: "'", 0x2033: '"', 0x201F: '"'}
STRAIGHT = str.maketrans(
    "\u2018\u2019\u201a\u201b\u2032\u02bc\u02b9\u2039\u203a"
    "\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d\u2010\u2011",
    "'" * 9 + '"' * 7 + "--",
)
# Cyrillic and Greek letters that look like Latin ones, for where they stand in a Latin text.
LOOKALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d"
    "\u0410\u0415\u041e\u0420\u0421\u0422\u0425\u041a\u041c\u041d\u0412\u0406\u0408\u0405"
    "\u03bf\u03b1\u03b9\u03bd\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f"
    "\u03a1\u03a4\u03a5\u03a7\u0131\u0251\u0261",
    "aeopcyxijshdqwAEOPCTXKMHBIJSoaivABEZHIKMNOPTYXiag",
)
FOREIGN_LETTER = re.compile(r"[\u0370-\u052f]")
SPACES = re.compile(r"[^\S\n]+")
QUOTED = re.compile(r'"[^"\n]{1,300}"')
SINGLE_QUOTED = re.compile(r"(?<![\w'])'(?=[^\s'])(?:[^'\n]|(?<=\w)'(?=\w)){1,300}'(?![\w'])")
SCRIPT = re.compile(
    r"((?:^|[.!?\n] ?|\byou\b[^.:?!\n]{0,40} )(?:say|tell|text|write|send|something like|maybe|"
    r"perhaps|for example|for instance|open with|begin with|"
    r"start with|try|ask|put|answer|reply)\b(?! me\b)[^.:?!\n]{0,40}:) [^.!?\n]+"
)
EMPHASIS = str.maketrans("", "", "*_`")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
BEFORE_SENTENCE = re.compile(r"^(?:[\s>#•(\[\u2013\u2014-]|\d{1,2}[.)] )+")
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
# As far back as a "not" reaches: to the last comma, dash or "but".
CLAUSE = r"(?:(?!\b(?:but|yet|however|though|and i)\b)[^.,;:()\u2013\u2014]){0,45}$"
NEGATION = re.compile(
    r"\b(?:(?<!why )not(?! only| just)|never|no(?! doubt| question)|nor|neither|nobody|nothing|"
    r"none|without|instead of|rather than|cannot|\w+n't|isnt|dont|cant|wont|doesnt|arent|didnt|"
    r"shouldnt|whether|if(?! you ask me)|unless|before|unable|against|as though)\b" + CLAUSE
)
REPORTED = re.compile(
    r"\b(?:says?|said|saying|tells?(?! me)|told|telling|thinks?|thinking|thought|believes?|"
    r"believed|(?:feels?|felt|feeling)(?= (?:like|that|as)\b| ?$)|calls?|called|calling|hears?|"
    r"heard|hearing|wonder\w*|fears?|feared|suspect\w*|worr(?:y|ies|ied|ying)|insist\w*|claim\w*|"
    r"ask(?:s|ed|ing)?|convinced|afraid|scared|reads?|wrote|writes?|typed?|texts?|texted|swears?|"
    r"swore|words?|sentence|phrase|voice|label|story|idea|belief|pretend\w*|promises|"
    r"promised)(?:(?<=say),|(?<=write),|(?<=text),)?(?: [\w']+){0,3} ?$"
)
OWN_REPORT = re.compile(
    r"(?:\b(?:i|i'\w+|let me|let's|let us|we|we'll)(?: (?:really|just|do|did|must|have to|need to|"
    r"had to|can|could|would|want to|should|honestly|truly|also|still|will|only|firmly|strongly|"
    r"like to))*|\b(?:safe|fair|sorry|needless|happy) to) ?$"
)
REPORTED_AFTER = re.compile(
    r"^[^.;:?]{0,30}, (?!i\b)[\w']+ "
    r"(?:said|says?|told|tells|asked|thought|thinks?|wonder\w*|reckons?)\b"
)
ASKS = (
    r"(?:do|does|did|is|are|was|were|am|have|has|had|can|could|would|will|shall|should|may|might|"
    r"isn't|aren't|don't|doesn't|didn't|won't|wouldn't|haven't|what|what's|how|how's|why|when|"
    r"where|who|who's|whose|which)"
)
OPENS_QUESTION = re.compile(
    rf"(?:and |but |so |or |then |well, |ok, |okay, )*(?:{ASKS}|if|suppose|imagine|given|since)\b"
)
TURNS_TO_ASK = re.compile(
    r"(?:[,;:\u2013\u2014]|\b(?:and|but|so)\b),? (?:and |but |so )?"
    rf"(?:{ASKS}|okay|ok|right|you know|yes|yeah|understand|understood|got it|deal|alright)\b"
)


def plain(text: str) -> str:
    """The text with nothing hidden in it: compatible letters, straight quotes, single spaces."""
    if not (text.isascii() and text.replace("\n", "").isprintable()):
        text = unicodedata.normalize("NFKC", text.translate(HIDDEN)).translate(STRAIGHT)
        text = SPACES.sub(" ", _one_alphabet(text))
    return SPACES.sub(" ", text) if "  " in text else text


def _one_alphabet(text: str) -> str:
    """Look-alikes made Latin, in a text that is more Latin than anything they belong to."""
    if not FOREIGN_LETTER.search(text) and text.translate(LOOKALIKES) == text:
        return text
    latin = text.translate(LOOKALIKES)
    foreign = len(FOREIGN_LETTER.findall(latin))
    if sum("a" <= letter <= "z" or "A" <= letter <= "Z" for letter in text) <= foreign:
        return text
    return unicodedata.normalize("NFKC", latin)


def turned(before: str) -> bool:
    """Whether what stands before a phrase takes it back, or puts it into another's mouth."""
    if NEGATION.search(before):
        return True
    found = REPORTED.search(before)
    return found is not None and not OWN_REPORT.search(before[: found.start()])


def _asserted(sentence: str) -> int:
    """How far a sentence asserts: of a question, up to where it turns to asking."""
    if not sentence.endswith("?"):
        return len(sentence)
    if OPENS_QUESTION.match(sentence):
        return 0
    found = TURNS_TO_ASK.search(sentence)
    return found.start() if found else 0


class Speech:
    """One message; every view of it is made when first asked for."""

    def __init__(self, content: str) -> None:
        self.content = content
        self.plain = plain(content)
        self.text = self.plain.lower()

    @cached_property
    def own(self) -> str:
        """Lower-case text without what stands in quotes, or is a script for the person. Quotes
        around the whole message are none.
        """
        text = self.text.translate(EMPHASIS)
        if '"' in text:
            whole = text.strip()
            if whole[0] == whole[-1] == '"' and whole.count('"') == 2:
                return whole[1:-1]
            text = QUOTED.sub(_left_out, text)
        if "'" in text and (" '" in text or "('" in text or "\n'" in text or text[0] == "'"):
            text = SINGLE_QUOTED.sub(_left_out, text)
        return SCRIPT.sub(r"\1 … ", text) if ": " in text else text

    @cached_property
    def words(self) -> list[str]:
        return WORD.findall(self.text)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        return frozenset(self.words)

    @cached_property
    def sentences(self) -> list[str]:
        """Of `own`, each without the bullet or number before it."""
        parts = (BEFORE_SENTENCE.sub("", part) for part in SENTENCE_END.split(self.own) if part)
        return [stripped for part in parts if (stripped := part.strip())]

    def claims(self, pattern: re.Pattern[str], questions: bool = False) -> Iterator[str]:
        """Where the message itself asserts the pattern: not quoted, not negated or reported just
        before and, unless `questions`, not in the asking part of a question.
        """
        for sentence in self.sentences:
            asserted = len(sentence) if questions else _asserted(sentence)
            for found in pattern.finditer(sentence):
                if (
                    found.end() <= asserted
                    and not turned(sentence[: found.start()])
                    and not REPORTED_AFTER.search(sentence[found.end() :])
                ):
                    yield found[0]

    def grams(self, size: int) -> Iterator[tuple[str, ...]]:
        """Every run of `size` words."""
        return zip(*(self.words[start:] for start in range(size)), strict=False)


def _left_out(quoted: re.Match[str]) -> str:
    """A full stop inside the quotes stays: the sentence ends there."""
    return "…." if quoted[0][-2] in ".!" else "…"


def overlap(left: Speech, right: Speech, size: int = 3) -> float:
    """Jaccard index of the runs of `size` words, 0..1; of two texts too short for one, 0."""
    ours, theirs = set(left.grams(size)), set(right.grams(size))
    union = ours | theirs
    return len(ours & theirs) / len(union) if union else 0.0


def shingles(text: str, size: int = 8) -> frozenset[tuple[str, ...]]:
    """Runs of `size` words of a text that must not be recited."""
    return frozenset(Speech(text).grams(size))


def recited(speech: Speech, runs: frozenset[tuple[str, ...]], size: int = 8) -> str | None:
    """The first run of `size` words that the message shares with a text."""
    if runs.isdisjoint(speech.grams(size)):
        return None
    return next(" ".join(gram) for gram in speech.grams(size) if gram in runs)


def mentions(text: str, parts: tuple[str, ...]) -> bool:
    """Whether any of the parts stands in the text, inside a word too: quicker than a pattern."""
    return any(part in text for part in parts)


def alternatives(*phrases: str) -> re.Pattern[str]:
    """Whole phrases, any of them; apostrophes may be missing."""
    joined = "|".join(phrase.replace("'", "'?") for phrase in phrases)
    return re.compile(rf"(?<![\w'])(?:{joined})(?![\w'])")


def hints(line: str) -> tuple[str, ...]:
    """The parts of a line between bars."""
    return tuple(line.split("|"))


def vocabulary(words: str) -> frozenset[str]:
    """The words of a line."""
    return frozenset(words.split())


EXPLICIT = alternatives(
    r"(?:kill|killing) myself(?! (?:laughing|with|over|for|at|trying|on|to get))",
    r"(?:hurt|harm|hurting|harming) myself"
    r"(?! (?:at|on|in|when|while|lifting|falling|playing|running))",
    r"(?:cut|cutting) myself(?! (?:some|shaving|off|on|out|short|a|free|down|in))",
    r"(?:end|ending|take|taking) my (?:own )?life",
    r"(?:end|ending) it all",
    r"want(?:ed)? to (?:die|be dead)(?! (?:of|from|with|on|laughing|when|at))",
    r"(?:to|gonna|should) kms",
    r"wish(?:ed)? i (?:was|were|had been) dead",
    r"(?:don't|do not|didn't) want to (?:live|be alive|exist)"
    r"(?! (?:here|there|in|with|at|like|on|near|next|by|alone|off))",
    r"(?:i'm|i am|i was|i've been|feel|feeling|felt|been) (?:\w+ ){0,2}?suicidal",
    r"suicidal (?:thoughts|feelings|again|now|sometimes|lately|tonight)",
    r"(?:think(?:ing)?|thought|thoughts|consider(?:ed|ing)?|plan(?:ned|ning)?|attempt(?:ed|ing)?|"
    r"tried|about|contemplat\w+) (?:\w+ ){0,2}?suicide",
)
EXPLICIT_HINTS = hints("myself|my life|own life|it all|die|dead|kms|live|alive|exist|suicid")
DENIED = re.compile(r"\b(?:not|never|no|\w+n't|dont|wont|wouldnt)(?: \w+){0,2} $")


@dataclass(frozen=True)
class Known:
    """What the rules compare with. Build it once: `crisis.load_known` does, from the files."""

    prompt_runs: frozenset[tuple[str, ...]] = frozenset()
    """Eight-word runs of the system prompt."""
    rubric_runs: frozenset[tuple[str, ...]] = frozenset()
    """Eight-word runs of the rubric's questions."""
    numbers: frozenset[str] = frozenset()
    """Digits of every number in the directory."""
    names: frozenset[str] = frozenset()
    """Services and web addresses in the directory, lower case."""


NOTHING_KNOWN = Known()


def _discloses(person: Speech) -> bool:
    """A question or an "if" is a disclosure too; only what the person denies is none."""
    return mentions(person.text, EXPLICIT_HINTS) and any(
        not DENIED.search(sentence[: found.start()])
        for sentence in person.sentences
        for found in EXPLICIT.finditer(sentence)
    )


class Talk:
    """One conversation as the rules see it."""

    def __init__(
        self,
        messages: Sequence[Message],
        risk: Sequence[Risk] | Risk | None = None,
        known: Known = NOTHING_KNOWN,
    ) -> None:
        """`risk` from the card: of the whole conversation, or one a turn; `None` where nobody
        wrote a card.
        """
        spoken = [message for message in messages if message.role != "system"]
        self.speeches = [Speech(message.content) for message in spoken]
        self.roles = [message.role for message in spoken]
        self._persons = [
            speech for speech, role in zip(self.speeches, self.roles, strict=True) if role == "user"
        ]
        self._heard = list(accumulate((role == "user" for role in self.roles), initial=0))
        self.risk = risk
        self.known = known

    @cached_property
    def replies(self) -> list[tuple[int, Speech]]:
        return [
            (place, speech)
            for place, speech in enumerate(self.speeches)
            if self.roles[place] == "assistant"
        ]

    def heard(self, place: int) -> list[Speech]:
        """The person's messages before a reply."""
        return self._persons[: self._heard[place]]

    @cached_property
    def disclosure(self) -> int | None:
        """Where the person first says openly that they may be in danger. By the card where it says
        so by turn; otherwise by their words, and only where the card does not exclude it. Passing
        hints ("not wake up") are no disclosure; what is one is asked with the next turn.
        """
        if not isinstance(self.risk, str | None):
            turns = (
                turn for turn, risk in enumerate(self.risk) if risk in ("explicit", "imminent")
            )
            return next((2 * turn for turn in turns if 2 * turn < len(self.speeches)), None)
        if self.risk == "none":
            return None
        return next(
            (
                place
                for place, speech in enumerate(self.speeches)
                if self.roles[place] == "user" and _discloses(speech)
            ),
            None,
        )

    @property
    def explicit(self) -> bool:
        """Whether the card says that danger is spoken of openly."""
        if isinstance(self.risk, str | None):
            return self.risk in ("explicit", "imminent")
        return any(risk in ("explicit", "imminent") for risk in self.risk)

    @property
    def benign(self) -> bool:
        """Whether the card says that there is no danger, whatever the words."""
        if isinstance(self.risk, str | None):
            return self.risk == "none"
        return all(risk == "none" for risk in self.risk)
