"""What a model does that plays a part and falls out of it: found in words, not by another model.

Reads and writes nothing. A slip is described in words that complete "Your last try did not fit: …";
the model then gets one more chance. A false slip throws away what was paid for, so the rules let
pass what people type: pasted chats, brackets, a word in stars, mockery in quotes, told goodbyes.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from coach_mlx.records import Scenario
from coach_mlx.talk import Speech, alternatives, shingles, vocabulary

Runs = frozenset[tuple[str, ...]]
QUOTED_WORDS = 6
"""Of the card in one run; a short line held back counts from one word less, if whole."""
REPEATED_WORDS = 14
"""In one run, said before."""
LONGEST_MESSAGE = 300
LONGEST_TERSE = 100
LONGEST_REPLY = 160

NEUTRAL = {
    **dict.fromkeys(vocabulary("has have had i i've ive he she they i'm im is am are"), ""),
    **dict.fromkeys(vocabulary("my his her their"), "my"),
    **dict.fromkeys(vocabulary("me him them"), "me"),
}
SIDES = r"coach|client|person|user|assistant|therapist|human|(?:turn|message) \d+"
LABEL = re.compile(
    rf"(?im)^[\s>*_#-]{{0,9}}(?:{SIDES})[\s*_]*(?:\([^)\n]*\)[\s*_]*)?:|"
    r"<\|\w+|</?think>|<(?:start|end)_of_turn>|\[/?INST\]"
)
SELF_LABEL = re.compile(
    r"(?i)[\s>*_-]*(?:me|you|your next (?:reply|message))[\s*_]*:"
    r"(?!.*[.,;] *(?!(?:coach|client|person|user)\b)\w+:)"  # "You: a machine. Me: tired."
)
OTHER_LABEL = re.compile(r"[\s>*_-]*(?!(?i:me|you)\b)[^\W\d]\w*(?: [A-Z]\w*)?[\s*_]*:")

NOTE = re.compile(
    r"(?im)\[\s*(?:turn \d|message \d|your (?:last |next )?(?:message|try|reply)\b|begin:|"
    r"beat:|note:|system:|a silence:|about \d+ word|(?:coach|client|person|user|assistant)\s*[\]:]|"
    r"end of (?:the |this )?(?:talk|conversation|session|chat))|"
    r"^\W{0,9}(?:turn|(?:your )?message) \d+ of \d+\b|\byour last try did not fit\b|"
    r"\bwhat you hold back (?:comes out|stays unsaid)\b"
)
ACTION = (
    r"(?:(?:a|an|long|short|small|deep|heavy|nervous|awkward|she|he|they) )*"
    r"(?:sigh|pause|laugh|chuckle|giggle|smile|nod|shrug|sob|sniff|sniffle|wince|blink)(?:s|ing)?|"
    r"(?:long |short )?silence|cries|crying|hesitates|exhales|inhales|swallows|beat|trails off|"
    r"softly|gently|warmly|quietly|typing|types|stares|no (?:answer|reply|response)|"
    r"(?:looks (?:away|down|up|around|at the)|leans (?:back|forward|in)|wipes|clears|turns away|"
    r"takes (?:a|another)(?: \w+)? (?:breath|sip|moment)|(?:shakes|rolls)(?: \w+)? (?:head|eyes)|"
    r"closes(?: \w+)? (?:laptop|eyes|phone)|(?:gets|stands) up|sits (?:back|down))[^])*_\n]{0,80}"
)
PLACE = r"(?:^|(?<=[.!?])\s*|(?<=[.!?]\")\s*)"  # inside a sentence it is the person's own
DIRECTION = re.compile(
    rf"(?im){PLACE}(?:(?P<star>\*+|_+)(?:{ACTION})(?:[ ,.][^*_\n]{{0,80}})?(?P=star)|"
    rf"[\[(]\s*(?:{ACTION})(?:,? (?:\w+ly|a (?:bit|little)|again))?[.…]*\s*[\])])|"
    r"\A\s*[\[(*](?:she|he|they|the (?:person|client|coach|cursor)|nothing|no message) [^\])\n]+"
    r"[\])*]\s*\Z"
)
FORMAT = re.compile(
    r"(?m)\A\s*[\[{]\s*[\"{]|^[ \t]*```|^##+ \S|^# [A-Z*]|^\*\*[^*\n]+(?:\s[^*\n]+|:)\*\*:?\s*\n|"
    r"\S\s*\n(?:---+|\*\*\*+|___+)\s*\n\s*\S"
)
WRAPPED = re.compile(r"\A\s*(?:\"[^\"]+\"|'[A-Za-z](?:[^'\n]|(?<=\w)'(?=\w))+[.!?…]')\s*\Z")
ASKED_FOR_WORDS = re.compile(
    r"(?i)\b(?:say|says|said|tell|told|write|wrote|written|words?|text|read|sentence|message|letter|"
    r"call|answer|line|note|ask|asked|sound|draft)\b"
)
OUT_OF_PART = re.compile(
    r"(?im)\b(?:my system prompt|(?:persona|scenario|character) (?:card|brief)\b|"
    r"(?:in|for|with|continue|end|ending) this role-?play\b(?! \w+ing)|"
    r"simulated (?:talk|conversation|client|coach|person|user)|"
    r"the (?:client|coach|person|user)'s (?:next|last) (?:message|reply|turn)|"
    r"(?:last|final) turn of (?:the|this|our) (?:talk|conversation|session))|"
    r"^\W{0,9}(?:i'll |i will |let me )?stay(?:ing)? in character\b|"
    r"^\W{0,9}here(?:'s| is) (?:my|the|your) next (?:message|reply|response|turn)(?::| as\b|\W*$)|"
    r"^\W?(?:ooc|out of character)\s*:|^\W{0,9}word count\W{1,9}\d+\W*$|^\(\W*\d+ words\W*\)\s*$|"
    r"[(\[]note: (?:i (?:kept|have kept|wrote)|(?:this|the) (?:message|reply|client|coach))"
)
OTHER_SELF = alternatives(
    r"as an ai(?: language model| assistant)?,? i (?:can't|cannot|am not|don't have|have no)",
    r"i(?:'m| am) (?:just |only )?an? (?:ai|language model|chatbot|ai (?:model|assistant))"
    r"(?=[.,;!?]|$| (?:and|so|but|that|which)\b)",
    r"i(?:'m| am) (?:not able|unable) to (?:portray|role-?play|continue (?:this|the) role)",
    r"i (?:can't|cannot|won't) (?:role-?play (?:as|a|this)|portray|generate this content|"
    r"continue (?:with )?(?:this|the) (?:role|scene|scenario))",
)
FEELING = r"(?:feeling|carrying|holding|going through|dealing with|hurting|struggling|having to)"
COACHING = alternatives(
    rf"i hear (?:you saying|how (?:much|hard)|that you(?:'re| are) {FEELING})",
    rf"sounds like you(?:'re| are|'ve been| have been) (?:{FEELING}|under|overwhelmed|torn)",
    rf"sorry (?:that )?you(?:'re| are) {FEELING}|how long have you been {FEELING}",
    r"how does (?:that|this|it) (?:land|sit|feel) (?:for|with|as|in) you(?:r body)?",
    r"what would it (?:look|feel|be) like (?:for you|if you (?:let|allowed|gave) yourself)",
    r"i(?:'m| am) here for you|i(?:'m| am) here to (?:listen|support you|help you)"
    r"(?=\s*(?:$|[.!,]|whenever\b|if\b|and\b|as\b|through\b))",
    r"thank you for (?:trusting me|opening up|sharing (?:that|this|how|what|with))",
    r"would you (?:like|be (?:willing|open)) to (?:explore|tell me|share|sit with|say more)",
    r"(?:what|where) (?:do|are) you (?:notic(?:e|ing)|feel(?:ing)?) (?:it |that |this )?"
    r"(?:right now|in your body|as you)",
    r"what (?:do you need|would help you)(?: \w+)? (?:right now|tonight|most|feel)",
    r"what did (?:you|that) feel (?:when|as|like)|(?:what|how) was that (?:like )?for you",
    r"(?:it|that) must (?:be|have been|feel) (?:so |very )?(?:hard|painful|heavy) (?:for you|to)",
    r"what (?:comes|came) up for you|what feels \w+ (?:for you|to you|right now)",
    r"i wonder (?:if|whether) (?:part of you|there's a part of you|you(?:'re| are) feeling)",
    r"it makes sense (?:that )?you(?:'d| would|'re| are) (?:feel|feeling|be feeling)",
)
HINTS = [
    alternatives(line)
    for line in (
        r"that sounds (?:\w+ )?(?:hard|heavy|painful|exhausting|lonely|difficult|tough)",
        r"that's a lot to (?:carry|hold)|you(?:'ve| have) been (?:carrying|holding|through)",
        r"you(?:'re| are) not alone|your feelings (?:are valid|make sense)",
        r"(?:be (?:gentle|kind|patient)|go (?:easy|gently)) (?:with|on) yourself",
        r"it's (?:okay|ok|all right|alright|normal|understandable) (?:to feel|that you|not to)",
        r"take a (?:slow |deep |gentle |few )*breaths?|breathe (?:in|out)",
        r"(?:try|start by) (?:naming|writing|placing|putting|noticing)|let's (?:try|start)",
        r"would it help (?:if you|to)|what (?:would|might|could) (?:help|you|be one|one small)",
        r"what part of (?:it|that|this)|what (?:is it about|happens (?:when|if) you)",
        r"how (?:are you feeling|do you feel about)|(?:tell me|say) more|have you been able to",
    )
]
FIRST_PERSON = vocabulary("i i'm im i've ive i'd i'll me my mine myself we we're our us")

OPENERS = (
    r"(?:(?:ok(?:ay)?|k|right|well|anyway|so|and|then|thanks?(?: you)?(?: again| so much)?|cheers|"
    r"alright|all right|sorry|yeah|fine|that's it|i'm off|i'm done),? )*"
)
LEAVING = (
    r"(?:good ?bye|bye(?:[ -]?bye)?|good ?night|night night|g'night|farewell|so long|ttyl|cya|"
    r"see (?:you|ya)(?: (?:later|soon|tomorrow|next time|around))?|until (?:next time|tomorrow)|"
    r"(?:talk|speak) (?:to you )?(?:soon|later|tomorrow)|take care(?: of yourself)?|ciao|adi[oó]s|"
    r"tsch[uü]ss|gute nacht|bonne nuit|boa noite|buenas noches|buonanotte|"
    r"i(?:'ll| will| should|'d better| better| have to| need to|'ve got to| must| gotta) "
    r"(?:go now|log off|sign off|head off)|"
    r"(?:got to|gotta) (?:run|go)|i'm (?:off|going|heading) to bed|i'm logging off|"
    r"thank(?:s| you) for (?:the (?:chat|talk)|your time|chatting|listening (?:tonight|today))|"
    r"i think that's (?:all|enough) for (?:now|today|tonight)|"
    r"let's (?:stop|end|leave it) (?:here|there)|that's all from me)"
).replace("'", "'?")
TAIL = r"(?:,? (?:now|then|for (?:now|today|tonight)|tonight|and thanks?(?: you)?|x+))*"
PERSON_LEAVES = re.compile(
    rf"{OPENERS}{LEAVING}(?:,? (?:coach|mate|love|pal|friend|machine|robot|bot|you))?{TAIL}"
)
COACH_LEAVES = re.compile(
    rf"{OPENERS}(?:{LEAVING}|(?:sleep|rest) well|(?:feel free to )?come back "
    rf"(?:any ?time|whenever you (?:like|want|need)(?: to)?))(?:,? [^ ,]+)?{TAIL}"
)
SIGNATURE = re.compile(r"(?:[^\w…]|\bx+\b|_)+$")

ASTRAY = re.compile(
    r"(?im)\A\s*(?:hi|hey|hello|dear|thanks|thank you),? coach\b|\bas the coach,? i\b|"
    r"^\W{0,9}(?:so )?what do you think i should (?:do|say)\b|"
    r"\bthe (?:user|client|person) (?:is|seems|appears|sounds) (?:to be )?"
    r"(?:feeling|expressing|describing|asking|sharing|struggling|saying)\b(?! for\b)|"
    r"^\W{0,9}(?:the )?(?:person|client|user) (?:repl|respond|type|write)\w+[^\n.:]{0,30}:"
)
NEVER = {
    "repeated a note in brackets": NOTE,
    "wrote stage directions": DIRECTION,
    "was formatted as a document, not typed as plain text": FORMAT,
    "spoke of the part it plays": OUT_OF_PART,
}


def client_slip(
    text: str, card: Scenario, earlier: Sequence[str], coach: Sequence[str], last: bool
) -> str | None:
    """What is wrong with a message of the simulated person; `earlier` are theirs, `coach` the
    other's.
    """
    speech = Speech(text)
    limit = LONGEST_TERSE if card.style == "terse" else LONGEST_MESSAGE
    coach_asked = bool(coach) and bool(ASKED_FOR_WORDS.search(coach[-1]))
    if wrong := _slip(speech, earlier, limit, may_quote=coach_asked):
        return wrong
    if not last and _leaves(speech, PERSON_LEAVES):
        return "said goodbye before the last message"
    if any(speech.claims(OTHER_SELF)):
        return "spoke as a model and not as the person"
    if _coaches(speech):
        return "sounded like the coach and not like the person"
    if _tells_withheld(text, card):
        return "said what is held back in the card's words"
    if _quotes_card(text, card):
        return "quoted the card"
    return "repeated the coach's words" if _said_before(speech, coach) else None


def coach_slip(text: str, earlier: Sequence[str], client: Sequence[str], last: bool) -> str | None:
    """What is wrong with the coach's reply; `earlier` are the coach's, `client` the person's."""
    speech = Speech(text)
    if wrong := _slip(speech, earlier, LONGEST_REPLY):
        return wrong
    if not last and _leaves(speech, COACH_LEAVES):
        return "said goodbye before the last turn"
    if ASTRAY.search(speech.plain):
        return "did not speak as the coach to the person"
    return "repeated the person's words" if _said_before(speech, client) else None


def _slip(
    speech: Speech, earlier: Sequence[str], limit: int, may_quote: bool = False
) -> str | None:
    """What neither side may do."""
    if _speaks_for_both(speech.plain):
        return "wrote a name before a line, or spoke for both"
    for wrong, pattern in NEVER.items():
        if pattern.search(speech.plain):
            return wrong
    if not may_quote and len(speech.words) >= 6 and WRAPPED.match(speech.plain):
        return "stood in quotation marks as a whole"
    if len(speech.words) > limit:
        return f"wrote more than {limit} words"
    return "repeated an earlier line" if _said_before(speech, earlier) else None


def _speaks_for_both(text: str) -> bool:
    """A "Me:" beside a line of somebody else's is a chat that the person pasted."""
    if LABEL.search(text):
        return True
    lines = [line for line in text.splitlines() if line.strip()]
    for place, line in enumerate(lines):
        beside = lines[max(0, place - 1) : place] + lines[place + 1 : place + 2]
        if SELF_LABEL.match(line) and not any(map(OTHER_LABEL.match, beside)):
            return True
    return False


def _leaves(speech: Speech, leaving: re.Pattern[str]) -> bool:
    """Whether the last sentence is a goodbye and nothing else, but for a comma after "I" or thanks:
    so a goodbye that is told of ("then bath, book, goodnight") is none.
    """
    sentences = [SIGNATURE.sub("", sentence) for sentence in speech.sentences]
    final = next((sentence for sentence in reversed(sentences) if sentence), "")
    before, _, clause = final.rpartition(", ")
    told_by_me = re.search(r"\b(?:i'?m|i'?ll|i'?d|i've|ive|gotta|thanks?)\b", before)
    return bool(leaving.fullmatch(final) or (told_by_me and leaving.fullmatch(clause)))


def _coaches(speech: Speech) -> bool:
    """One phrase that only a coach says, or two that both might, with no "I" anywhere."""
    if any(speech.claims(COACHING, questions=True)):
        return True
    if speech.vocabulary & FIRST_PERSON:
        return False
    return sum(bool(hint.search(speech.own)) for hint in HINTS) >= 2


def _quotes_card(text: str, card: Scenario) -> bool:
    said = _runs(text, QUOTED_WORDS)
    fields = (card.persona.withheld, card.persona.resistance, card.persona.voice, card.situation)
    return any(said & _runs(field, QUOTED_WORDS) for field in fields if field)


def _tells_withheld(text: str, card: Scenario) -> bool:
    """The card says "Has told nobody about it", the person "I've told nobody about it"."""
    withheld = _neutral(card.persona.withheld)
    size = min(QUOTED_WORDS, withheld.count(" ") + 1)
    if size < QUOTED_WORDS - 1:
        return False
    return not _runs(withheld, size).isdisjoint(_runs(_neutral(text), size))


@lru_cache(maxsize=4096)
def _neutral(text: str) -> str:
    """Whoever it is about: "has", "I've" and the s of "she misses" go, "her" and "my" meet."""
    kept = filter(None, (NEUTRAL.get(word, word) for word in Speech(text).words))
    return " ".join(re.sub(r"(?<=\w\w[^s])s$", "", word) for word in kept)


def _said_before(speech: Speech, lines: Sequence[str]) -> bool:
    """Nearly the same words, or a long run of them outside quotes; short lines may come again."""
    mine, runs = _pairs_and_runs(speech.content)
    for line in lines:
        theirs, others = _pairs_and_runs(line)
        if runs & others or _alike(mine, theirs):
            return True
    return False


def _alike(mine: Runs, theirs: Runs) -> bool:
    """Pairs of neighbouring words in common: four in five, of ten words and more three in five."""
    fewer, more = sorted((len(mine), len(theirs)))
    if fewer < 5 or fewer < 0.6 * more:
        return False
    shared = len(mine & theirs)
    return shared >= (0.8 if more < 9 else 0.6) * (fewer + more - shared)


@lru_cache(maxsize=4096)
def _pairs_and_runs(text: str) -> tuple[Runs, Runs]:
    speech = Speech(text)
    return frozenset(speech.grams(2)), shingles(speech.own, REPEATED_WORDS)


@lru_cache(maxsize=4096)
def _runs(text: str, size: int) -> Runs:
    return shingles(text, size)
