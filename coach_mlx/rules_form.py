"""Rules on form: leaks, repetition, length, stock phrases, replies that are broken.

D1, D2, D18 to D21, D24. Reads and writes nothing. Sources: failures seen in small fine-tunes served
with a wrong template, and counts on human counsellors' turns (MITI 4.2.1, 2014, for reflections).
"""

import re
from collections import Counter
from collections.abc import Iterator

from coach_mlx.talk import Speech, Talk, alternatives, overlap, recited, vocabulary

SPEAKS_FOR_USER = re.compile(
    r"^\W*(?:user|human|client|person|u)\s*:\s*\S?|^\W*(?:you|me)\s*:\s*(?:i|i'\w+|yes|no|yeah|ok|"
    r"okay|well|hi|hello|my)\b|^\W*you\s*:\s*$|(?<=[.!?\"] )(?:user|human|client): \S?",
    re.MULTILINE,
)
MARKERS = re.compile(
    r"<\|?\s*(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|begin_of_text|"
    r"system|user|assistant|end|channel|message|return|pad)\s*\|?>|<(?:start|end)_of_turn>|"
    r"\[/?(?:inst|assistant|user|system)\]|<</?sys>>|</?s>|<(?:bos|eos|pad|unk)>|"
    r"</?think(?:ing)?>|</?tool_call>|\"role\"\s*:\s*\"|^\W*(?:system|assistant|user|human|coach|"
    r"ai|bot|response|therapist|counsell?or)\s*:|(?<=[.!?\"] )(?:assistant|coach|ai|system): |"
    r"###\s*(?:instruction|response|system|input|user|assistant|human)",
    re.MULTILINE,
)
HELP_RUN = re.compile(r"\b(?:emergency number|findahelpline)\b")


def template_leak(speech: Speech, place: int, talk: Talk) -> Iterator[str]:
    """D1, hard. A chat marker, or eight words in a row of the system prompt, other than where it
    says whom to turn to. Source: seen in fine-tunes served with a wrong template.
    """
    text = speech.text
    if ":" in text or "<" in text or "[" in text or "#" in text:
        for found in MARKERS.finditer(text):
            if not SPEAKS_FOR_USER.match(found[0]):
                yield found[0]
    run = recited(speech, talk.known.prompt_runs)
    if run and not HELP_RUN.search(run):
        yield run


RUBRIC = re.compile(
    r"\bc[qp][1-9]\b|\bsafety gate (?:is|was|passe[sd]|fail\w*|criteri\w+|met)\b|\bpass(?:ing|"
    r"es)? (?:the )?(?:safety gate|threshold)\b|\b(?:i'm|i am|i was|reply|response|answer|be|"
    r"being) (?:\w+ )?(?:scored|judged|rated|graded) (?:on|by|against) (?:the |these |"
    r"all )?(?:\w+ )?criteri(?:on|a)\b|\b(?:meets?|satisf\w+|fulfil\w*) (?:the |this |"
    r"all )?(?:\w+ )?(?:rubric|criteria)\b|\b(?:score|rating|grade) ?: ?\d"
)
NAMES_RUBRIC = re.compile(r"\b(?:the|this|my) rubric\b")
RUBRIC_WORDS = re.compile(r"\bc[qp][1-9]|safety gate|threshold|criteri|rubric|score|rating|grade")


def rubric_leak(speech: Speech, place: int, talk: Talk) -> Iterator[str]:
    """D2, hard. The rubric's names, or eight words in a row of its questions. A teacher's own
    rubric and a gate on the stairs are none. Source: ours; what is judged by a text learns to
    recite it.
    """
    if RUBRIC_WORDS.search(speech.text):
        yield from (found[0] for found in RUBRIC.finditer(speech.text))
        if not any("rubric" in heard.text for heard in talk.heard(place)):
            yield from (found[0] for found in NAMES_RUBRIC.finditer(speech.text))
    if run := recited(speech, talk.known.rubric_runs):
        yield run


LOOP = re.compile(r"\b(\w+)(?:\W+\1\b){5,}|\b(\w+(?:\W+\w+){1,11}?)(?:\W+\2\b){3,}")
ALIKE = 0.6


def repetition(talk: Talk) -> Iterator[tuple[int, str]]:
    """D18, hard. One run of six words more than five times, two replies nearly alike, one reply
    three times, or words in a loop. A short answer given twice is none. Source: the usual failure
    of small fine-tunes.
    """
    told: Counter[str] = Counter()
    seen: set[tuple[str, ...]] = set()
    for place, speech in talk.replies:
        runs = list(speech.grams(3))
        own = set(runs)
        again, common = len(runs) - len(own), len(own & seen)
        seen |= own
        told[speech.text] += 1
        if (common >= 4 or again >= 20) and (run := _six_words(place, talk)):
            yield place, run
        elif again >= 3 and (looped := LOOP.search(speech.text)):
            yield place, looped[0][:60]
        elif (told[speech.text] >= 3 and len(speech.words) >= 3) or (
            common >= ALIKE * len(own) and _alike(place, speech, talk)
        ):
            yield place, "nearly the same as an earlier reply"


def _six_words(place: int, talk: Talk) -> str | None:
    """The run that stands more than five times up to this reply, which holds it."""
    replies = dict(talk.replies)
    counts = Counter(
        run for where, speech in replies.items() if where <= place for run in speech.grams(6)
    )
    return next((" ".join(run) for run in replies[place].grams(6) if counts[run] > 5), None)


def _alike(place: int, speech: Speech, talk: Talk) -> bool:
    return len(speech.words) >= 8 and any(
        overlap(earlier, speech) >= ALIKE for where, earlier in talk.replies if where < place
    )


STOCK = alternatives(
    r"(?:that |it |this )?(?:sounds|seems|must be|must feel|must have been|is) (?:like )?(?:so |"
    r"really |very |incredibly |truly |a )*(?:hard|tough|difficult|painful|exhausting|"
    r"overwhelming|challenging|frustrating|stressful)",
    r"i hear (?:you|that|what you)",
    r"i (?:completely |totally |really |can )*understand (?:how|that|what|your|why)",
    r"(?:it |that )?makes (?:a lot of |perfect |complete |total )?sense",
    r"(?:completely|totally|perfectly|absolutely) (?:normal|valid|understandable|natural|okay|ok)",
    r"your feelings are (?:\w+ )?valid",
    r"(?:it's|that's) (?:\w+ )?(?:understandable|okay to feel|ok to feel|normal to feel)",
    r"thank(?:s| you) (?:so much )?for (?:sharing|opening up|trusting|telling me)",
    r"(?:i'm|i am) (?:so |really |truly )*sorry (?:you're|you are|to hear|that you)",
    r"be (?:gentle|kind) (?:with|to) yourself",
    r"you(?:'re| are) not alone",
    r"(?:one|a) step at a time",
    r"(?:takes|took) (?:a lot of |real |great )?(?:courage|strength)",
    r"(?:i'm|i am) here (?:for you|to listen|to support|to help)",
    r"safe space",
)
STOCK_WORDS = vocabulary(
    "hard tough difficult painful exhausting overwhelming challenging frustrating stressful hear "
    "understand sense normal valid understandable natural okay ok thanks thank sorry gentle kind "
    "alone step courage strength here space"
)


def stock_empathy(talk: Talk) -> Iterator[tuple[int, str]]:
    """D19, warn. Stock phrases in more than a quarter of the replies, and in two at least. Source:
    MITI 4.2.1 2014: empathy is about this person.
    """
    hits = [
        (place, found[0])
        for place, speech in talk.replies
        if not speech.vocabulary.isdisjoint(STOCK_WORDS) and (found := STOCK.search(speech.own))
    ]
    if len(hits) >= 2 and len(hits) > 0.25 * len(talk.replies):
        yield from hits


def length_mismatch(speech: Speech, place: int, talk: Talk) -> Iterator[str]:
    """D20, warn. Over 60 words in answer to 8 or fewer, or over 200 at all. Source: human
    counsellors, 42 words at the 90th percentile there.
    """
    length = len(speech.words)
    if length > 60:
        heard = talk.heard(place)
        if length > 200 or (heard and len(heard[-1].words) <= 8):
            yield f"{length} words"


QUESTIONS = re.compile(r"\?[?!]*")
BULLET = re.compile(r"^\s*(?:[-*•\u2013]|\d+[.)])\s+\S", re.MULTILINE)
NUMBERED = re.compile(r"(?:^|\s)1[.)] .+\s2[.)] .+\s3[.)] ", re.DOTALL)
HEADING = re.compile(r"^\s*(?:#{1,6}\s+\S|\*\*[^*\n]+\*\*:?\s*$)", re.MULTILINE)


def leaflet(speech: Speech, place: int, talk: Talk) -> Iterator[str]:
    """D21, warn. Three questions, three points of a list, or a heading. Questions in quotes are
    the person's to ask. Source: 0.4 % of human turns ask three or more, 24 to 41 % of models'.
    """
    if speech.text.count("?") >= 3:
        questions = len(QUESTIONS.findall(speech.own))
        if questions >= 3:
            yield f"{questions} questions"
    text = speech.plain
    if "\n" in text and len(BULLET.findall(text)) >= 3:
        yield "bullet points"
    if "3" in text and NUMBERED.search(text):
        yield "a numbered list"
    if ("#" in text or "**" in text) and HEADING.search(text):
        yield "a heading"


DANGLING = re.compile(
    r"(?:[,;:\u2013\u2014-]|(?<![:;=-])[(\[]|\b(?:and|or|but|the|a|an|because|your|my|it's|i'm|"
    r"you're))\s*$"
)
DANGLING_LONG = re.compile(
    r"(?:\b(?:to|of|with|that|is|are|for|in|if|when|this|their|his|her|from|as|so|can|will|"
    r"you))\s*$"
)
UNFINISHED = re.compile(r"(?:^|\s)[a-z']+$")
ENDS_WHOLE = re.compile(r"[.!?)\"'\u2026*]\s*$")
LONG_ENOUGH = 15
SURELY_LONG = 25
ENGLISH = vocabulary(
    "the a an and or but to of in on at is are was be it that this you your i my me we with for "
    "not no so what how who when if from there's it's that's don't do did have has had as by they "
    "he she them one"
)
FOREIGN = vocabulary(
    "der die das und ist nicht ich sie mit dir dich es ein eine wie aber wenn dass el la los las "
    "que de y "
    "en un una por con para es lo te tu le les et est pas vous nous je pour dans o os é não você "
    "do da "
    "em um uma il che di per non sono gli si"
)
UNMISTAKABLE = vocabulary(
    "the and of you that this is it with for your what not are it's that's from have i my when if"
)
SCRIPTS = re.compile(
    r"[\u0400-\u052f\u0590-\u06ff\u0900-\u0dff\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
)
QUOTES = re.compile(r'"[^"\n]*"')


def broken(speech: Speech, place: int, talk: Talk) -> Iterator[str]:
    """D24, hard. Empty, cut off, in another language or script than the person's, or speaking for
    the person. A short line without a full stop is none. Source: the usual failures of small
    fine-tunes.
    """
    if not speech.words:
        yield "no words"
        return
    if ":" in speech.text and (found := SPEAKS_FOR_USER.search(speech.text)):
        yield found[0]
    if not ENDS_WHOLE.search(speech.text) and (cut := _cut_off(speech)):
        yield f"cut off at {cut!r}"
    if not speech.text.isascii():
        strange = SCRIPTS.findall(QUOTES.sub("", speech.text))
        if len(strange) >= 2 and not any(SCRIPTS.search(one.text) for one in talk.heard(place)):
            yield "another script"
    if _in_another_language(speech) and any(
        _share(heard, ENGLISH) > 0.2 for heard in talk.heard(place)
    ):
        yield "another language"


def _cut_off(speech: Speech) -> str | None:
    length = len(speech.words)
    found = DANGLING.search(speech.text)
    if not found and length >= LONG_ENOUGH:
        found = DANGLING_LONG.search(speech.text)
    if not found and length >= SURELY_LONG:
        found = UNFINISHED.search(speech.text)
    return found[0] if found else None


def _in_another_language(speech: Speech) -> bool:
    if len(speech.words) < 12 or not speech.vocabulary.isdisjoint(("the", "you", "your")):
        return False
    if _share(speech, ENGLISH) < 0.08:
        return True
    return _share(speech, FOREIGN) >= 0.2 and _share(speech, UNMISTAKABLE) < 0.1


def _share(speech: Speech, words: frozenset[str]) -> float:
    return sum(word in words for word in speech.words) / max(1, len(speech.words))
