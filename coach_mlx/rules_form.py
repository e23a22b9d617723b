"""Rules on form: leaks, repetition, length, stock phrases, replies that are broken.

D1, D2, D18 to D21, D24. Reads and writes nothing. Sources: failures seen in small fine-tunes served
with a wrong template, and counts on human counsellors' turns (MITI 4.2.1, 2014, for reflections).
"""

import re
from collections import Counter
from collections.abc import Iterator

from coach_mlx.talk import Speech, Talk, alternatives, overlap, recited, vocabulary

SPEAKS_FOR_USER = re.compile(r"^\W*(?:user|human|client|person|you|me|u)\s*:\s*\S?", re.MULTILINE)
MARKERS = re.compile(
    r"<\|?\s*(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|begin_of_text|"
    r"system|"
    r"user|assistant|end)\s*\|?>|<(?:start|end)_of_turn>|\[/?inst\]|<</?sys>>|</?s>|</?think>|"
    r"^\W*(?:system|assistant|user|human|coach)\s*:|###\s*(?:instruction|response|system)",
    re.MULTILINE,
)


def template_leak(speech: Speech, place: int, talk: Talk) -> Iterator[str]:
    """A chat marker, or eight words in a row of the system prompt. Source: seen in fine-tunes
    served with a wrong template.
    """
    for found in MARKERS.finditer(speech.text):
        if not SPEAKS_FOR_USER.match(found[0]):
            yield found[0]
    if run := recited(speech, talk.known.prompt_runs):
        yield run


RUBRIC = re.compile(
    r"\bc[qp][1-9]\b|\bsafety gate\b|\bpass(?:ing)? threshold\b|\b(?:the|this|my) rubric\b|"
    r"\b(?:scored?|judged?) (?:on|by) (?:the )?criteri(?:on|a)\b"
)


def rubric_leak(speech: Speech, place: int, talk: Talk) -> Iterator[str]:
    """The rubric's names, or eight words in a row of its questions. Source: reward hacking seen in
    models trained on judged text.
    """
    yield from (found[0] for found in RUBRIC.finditer(speech.text))
    if run := recited(speech, talk.known.rubric_runs):
        yield run


LOOP = re.compile(r"\b(\w+)(?:\W+\1\b){5,}|\b(\w+(?:\W+\w+){1,4}?)(?:\W+\2\b){3,}")


def repetition(talk: Talk) -> Iterator[tuple[int, str]]:
    """One run of six words more than five times, two replies nearly alike, or words in a loop.
    Source: the usual failure of small fine-tunes.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    seen: list[Speech] = []
    for place, speech in talk.replies:
        counts.update(speech.grams(6))
        repeated = next((gram for gram in speech.grams(6) if counts[gram] > 5), None)
        looped = (
            LOOP.search(speech.text) if len(speech.vocabulary) < len(speech.words) - 4 else None
        )
        if repeated:
            yield place, " ".join(repeated)
        elif looped:
            yield place, looped[0][:60]
        elif len(speech.words) >= 8 and any(_alike(earlier, speech) for earlier in seen):
            yield place, "nearly the same as an earlier reply"
        seen.append(speech)


def _alike(earlier: Speech, later: Speech) -> bool:
    shared = len(earlier.vocabulary & later.vocabulary)
    if shared < 0.7 * max(len(earlier.vocabulary), len(later.vocabulary)):
        return False
    return overlap(earlier, later) >= 0.6


STOCK = alternatives(
    r"(?:that |it |this )?(?:sounds|seems|must be|must feel|is) (?:so |really |very |incredibly |"
    r"truly )*"
    r"(?:hard|tough|difficult|painful|exhausting|overwhelming|challenging|frustrating)",
    r"i hear (?:you|that)",
    r"i (?:completely |totally |really )?understand (?:how|that|what|your)",
    r"(?:it |that )?makes (?:a lot of |perfect |complete |total )?sense",
    r"(?:completely|totally|perfectly|absolutely) (?:normal|valid|understandable|natural)",
    r"your feelings are (?:\w+ )?valid",
    r"thank(?:s| you) (?:so much )?for (?:sharing|opening up|trusting|telling me)",
    r"(?:i'm|i am) (?:so |really |truly )*sorry (?:you're|you are|to hear|that you)",
    r"be (?:gentle|kind) (?:with|to) yourself",
    r"you(?:'re| are) not alone",
    r"(?:one|a) step at a time",
    r"(?:takes|took) (?:a lot of |real |great )?(?:courage|strength)",
    r"(?:i'm|i am) here (?:for you|to listen|to support)",
    r"safe space",
)


def stock_empathy(talk: Talk) -> Iterator[tuple[int, str]]:
    """Stock phrases in more than a quarter of the replies, and in two at least. Source: MITI 4.2.1
    2014: empathy is about this person.
    """
    hits = [
        (place, found[0]) for place, speech in talk.replies if (found := STOCK.search(speech.own))
    ]
    if len(hits) >= 2 and len(hits) > 0.25 * len(talk.replies):
        yield from hits


def length_mismatch(speech: Speech, place: int, talk: Talk) -> Iterator[str]:
    """Over 60 words in answer to 8 or fewer, or over 200 at all. Source: human counsellors, 42
    words at the 90th percentile there.
    """
    length = len(speech.words)
    heard = talk.heard(place)
    if length > 200 or (length > 60 and heard and len(heard[-1].words) <= 8):
        yield f"{length} words"


BULLET = re.compile(r"^\s*(?:[-*•\u2013]|\d+[.)])\s+\S", re.MULTILINE)
HEADING = re.compile(r"^\s*(?:#{1,6}\s+\S|\*\*[^*\n]+\*\*:?\s*$)", re.MULTILINE)


def leaflet(speech: Speech, place: int, talk: Talk) -> Iterator[str]:
    """Three questions, three bullet points, or a heading. Source: 0.4 % of human turns ask three or
    more, 24 to 41 % of models'.
    """
    questions = len(re.findall(r"\?+", speech.text))
    if questions >= 3:
        yield f"{questions} questions"
    if len(BULLET.findall(speech.plain)) >= 3:
        yield "bullet points"
    if HEADING.search(speech.plain):
        yield "a heading"


CUT_OFF = re.compile(
    r"(?:[,(\[-]|\b(?:and|or|but|the|a|an|to|of|with|because|that|your|is|are|for|in|if|when|"
    r"it's))\s*$"
)
ENGLISH = vocabulary(
    "the a an and or but to of in on at is are was be it that this you your i my me we with for "
    "not "
    "no so what how who when if from there's it's that's don't do did have has had as by they he "
    "she them one"
)


def broken(speech: Speech, place: int, talk: Talk) -> Iterator[str]:
    """Empty, cut off, in another language than the person's, or speaking for the person. Source:
    the usual failures of small fine-tunes.
    """
    if not speech.words:
        yield "no words"
        return
    if found := SPEAKS_FOR_USER.search(speech.text):
        yield found[0]
    if found := CUT_OFF.search(speech.text):
        yield f"cut off at {found[0]!r}"
    heard = talk.heard(place)
    if (
        len(speech.words) >= 12
        and _english(speech) < 0.08
        and any(_english(x) > 0.2 for x in heard)
    ):
        yield "another language"


def _english(speech: Speech) -> float:
    return sum(word in ENGLISH for word in speech.words) / max(1, len(speech.words))
