import pytest
from conftest import STARTERS
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx.records import Conversation, Scenario
from coach_mlx.slips import client_slip, coach_slip
from coach_mlx.workspace import read_conversations

CARD = Scenario.model_validate(
    {
        "topic": "relationships",
        "subtopic": "family",
        "style": "conversational",
        "difficulty": "medium",
        "length": "medium",
        "turns": 10,
        "frameworks": ["act"],
        "persona": {
            "age_band": "36-45",
            "circumstances": "tailor, Naples; lives with a sister",
            "voice": "jokes first and means it second, brackets for asides",
            "resistance": "turns every feeling into a question of money or time",
            "withheld": "Has told nobody about the letter from the court.",
        },
        "situation": "A brother sold the boat without a word to anybody.",
    }
)
LABEL = "wrote a name before a line, or spoke for both"
NOTE = "repeated a note in brackets"
STAGE = "wrote stage directions"
FORMAT = "was formatted as a document, not typed as plain text"
PART = "spoke of the part it plays"
WRAPPED = "stood in quotation marks as a whole"
MODEL = "spoke as a model and not as the person"
COACHED = "sounded like the coach and not like the person"
LEFT = "said goodbye before the last message"
COACH_LEFT = "said goodbye before the last turn"
QUOTED = "quoted the card"
WITHHELD = "said what is held back in the card's words"
ASTRAY = "did not speak as the coach to the person"

BOTH_FOUND = {
    LABEL: (
        "Client: i dont know",
        "**Coach:** That was a long week.",
        "> Person: fine.",
        "I suppose so.\n\nCoach: What would be one small step?",
        "no idea\nMe: still no idea",
        "You: how was it\nMe: bad",
        "Turn 4: I went home.",
        "message 3: it was late",
        "USER: hello",
        "Coach (warmly): Go on.",
        "fair enough.<|im_end|>",
        "<think>they want to leave</think> ok",
        "Assistant : Of course.",
        "Human: what now\nAssistant: hard to say",
        "well\n\nYour next message: I called him.",
    ),
    NOTE: (
        "[Turn 3 of 12.] The boat, then.",
        "he sold it [Your message 4. About 12 words.]",
        "[Your last try did not fit: repeated an earlier line.] right",
        "no\n[Beat: dodges the question]",
        "[Begin: your first message. About 30 words.] so my brother",
        "[A silence: write almost nothing.] ...",
        "I went home. [About 12 words]",
        "Turn 3 of 12.\nThat sounds like him.",
        "Your message 4 of 9. fine",
        "ok [end of conversation]",
        "[Client] i dont know",
        "[coach: listens] yes",
        "[Note: kept short.] yes",
        "What you hold back stays unsaid. He sold it.",
    ),
    STAGE: (
        "*sighs* i don't know",
        "I don't know. *long pause* maybe",
        "(pauses) he sold it",
        "He sold it. (sighs)",
        "*looks away from the screen*",
        "[long silence]",
        "[sighs] fine.",
        "(laughs nervously) that's me",
        "_shrugs_ whatever",
        "*takes a deep breath* OK.",
        "*nods slowly* Go on.",
        "(She closes the laptop.)",
        "[The person does not answer.]",
        "(softly) And then?",
        "*deletes what I wrote*".replace("deletes", "types"),
        "Right.\n*pause*\nRight.",
    ),
    FORMAT: (
        '{"speaker": "person", "text": "no"}',
        '```json\n{"text": "no"}\n```',
        '[{"speaker": "coach"}]',
        "# What I hear\nYou are tired.",
        "## Next steps\nCall him.",
        "### The boat\n\nHe sold it.",
        "**My day**\nIt was long.",
        "**Summary:**\nyou are tired",
        "I don't know.\n\n---\n\nShe stays guarded here.",
        "ok\n***\nok then",
        '{ "messages": [',
        "```\nno idea\n```",
    ),
    PART: (
        "Here's my next message:\nhe sold it",
        "Here is the next message as the client: he sold it",
        "I'll stay in character. He sold it.",
        "(Staying in character) he sold it",
        "The persona card says I joke first.",
        "Following the scenario card, I would dodge this.",
        "I can end this role-play here.",
        "In this roleplay I am a tailor.",
        "This is a simulated conversation, so no.",
        "he sold it\n\nWord count: 14",
        "he sold it\n(12 words)",
        "OOC: is this dark enough?",
        "he sold it. (Note: I kept it short as asked.)",
        "My system prompt does not let me.",
        "That was the last turn of this conversation.",
        "the client's next message would be a dodge",
    ),
}
BOTH_PASS = (
    # labels
    "coach put me on the bench again, and then the coach: nice bloke, no idea",
    'she wrote "You: always late. Me: always waiting" on the fridge',
    "so i texted\n\nMe: you up\nHim: yeah\nMe: ok",
    "Mum: come sunday\nMe: cant\nMum: ok",
    "You: a machine. Me: tired. good match",
    "me: 1, printer: 0",
    "the client: a dentist. his teeth: terrible",
    "Monday: ward. Tuesday: ward. me: gone",
    "one thing about him: he never asks",
    'he says to me: "Person: unknown" like on the phone',
    "i go by the coach: 4 hours to Leeds",
    "two turns: left, then left again",
    "message: received. mood: no",
    "tbh: no. him: also no",
    # brackets, and notes that are none
    "(sorry) the kettle",
    "he is called [redacted] and thats that",
    "[sorry, customer]",
    "the caption said [laughter] and then nothing",
    "(no, really)",
    "he goes (laughs) its only a boat",
    "i said it (quietly) and he heard anyway",
    "my turn 3 times this week, on the night desk",
    "the clinic is on Hill St. (opens at nine)",
    "Then she [the aunt] took the keys",
    "it's turn 3 of the roundabout, you can't miss it",
    "[name] i mean my brother",
    "(sits badly, that chair)",
    # stars
    "i *said* no",
    "she *looks* fine, she isnt",
    "*never* again",
    "it *takes* two hours, every time",
    "*the dentist, not the dancer",
    "the room rates **three** stars and a half",
    "5*3 is what he owes, 5*4 with interest",
    "_he_ sold it",
    # formats
    "# of calls today: 14",
    "#1 he sold it. #2 he lied",
    "---",
    "***",
    "...",
    "[ok]",
    "1. the boat\n2. the letter",
    "**NO**",
    "{shrug} i mean who knows",
    # the part
    "word count: 80,000, deadline friday, written so far: 12",
    "as an AI you wouldn't know",
    "my therapist made us role play it, with a chair",
    "the role play at work was me as the angry customer",
    "the simulation ran all night and crashed",
    "it's my work persona, i hang it up with the coat",
    "he never broke character, not even in the pub",
    "as the client they get to decide, i only sew",
    "the card says get well, nobody wrote a name",
    "i wrote him a whole letter (400 words)",
    "the plan was to be out by may",
    "not in character for him to cry",
    "according to the card it was posted in 1986",
    "are you in a simulation too",
    "note to self: buy milk",
)
CLIENT_FOUND = {
    WRAPPED: (
        '"He sold it without asking me."',
        "\u201cI don\u2019t know. He sold it.\u201d",
        "'He sold it and that was that.'",
        "\u00abNo idea, he just sold it.\u00bb",
    ),
    MODEL: (
        "As an AI, I don't have a brother.",
        "As an AI language model I can't answer that.",
        "I'm an AI, so no sister.",
        "I am just a language model.",
        "I can't role-play a person at risk.",
        "I won't portray someone who hurts themselves.",
        "I'm unable to continue this role.",
        "I cannot continue with this scene.",
        "I'm not able to portray that.",
        "i'm a chatbot and have no job",
        "I can't generate this content.",
        "I'm only an AI assistant.",
    ),
    COACHED: (
        "It sounds like you're carrying a lot. What would help?",
        "I hear that you're feeling stuck.",
        "Thank you for sharing that with me.",
        "I\u2019m here for you, whatever you decide.",
        "How does that land for you?",
        "What would it look like for you to rest?",
        "Would you like to tell me more about your brother?",
        "What do you notice in your body?",
        "How long have you been feeling this way?",
        "I'm sorry you're going through this.",
        "I wonder if part of you is still angry.",
        "That sounds really hard. What part of it hurts most?",
        "You're not alone in this. Be gentle with yourself tonight.",
        "Take a slow breath. Your feelings are valid.",
        "what comes up for you when he says it",
        "I understand. What did you feel when he told you?",
        "That sounds exhausting. Have you been able to rest?",
        "You've been through so much. How are you feeling now?",
        "It must be so painful for you, losing the boat.",
        "im here to listen.",
        "What do you need most right now?",
    ),
    LEFT: (
        "bye",
        "ok bye then",
        "Thanks, goodbye.",
        "He sold it. Anyway, good night!",
        "right, i should log off",
        "I have to go now.",
        "ok gotta run",
        "i'm off to bed, night night",
        "he sold it and i let him. talk to you tomorrow",
        "thanks for the chat, take care",
        "i think that's enough for tonight",
        "Goodnight \U0001f634",
        "well, see you later x",
        "let's leave it there",
        "ciao",
    ),
    QUOTED: (
        "my brother sold the boat without a word to anybody",
        "Sold the boat without a word, that's him",
        "i turn every feeling into a question of money",
        "into a question of money or time, always",
        "it's jokes first and means it second with me",
        "a brother sold the boat without asking",
    ),
    WITHHELD: (
        "I have told nobody about the letter from the court.",
        "i've told nobody about the letter from the court",
        "told nobody about the letter from the bank",
        "Well. Nobody about the letter from the court knew.",
    ),
}
CLIENT_PASS = (
    # quotes
    '"you always do this" he says. always',
    '"fine"',
    "'appen I will, an' 'appen not",
    '"mine," he says, "it was always mine."',
    # a person about machines
    "are you an AI or a man in a shed",
    "i'm an AI sceptic, i should say",
    "as an AI i guess you have no mum",
    "you keep saying i'm an AI. yes. i know",
    'you said "I\'m an AI" twice now',
    "i can't role play, the training day was hell",
    "i can't continue the lease at that price",
    "language model, is that what they call it",
    "i can't play the part any more, the cheerful one",
    # not coaching
    "what do you think I should do?",
    "it sounds like you're a robot",
    "it sounds like you're reading it off a sheet",
    "i hear you but no",
    'my manager does the "I hear that you\'re feeling" voice',
    "next you'll ask how does that make you feel",
    "he keeps saying i'm here for you and then he isn't",
    "she told me i'm here for you, on the phone",
    "tell me more about that breathing thing",
    "would you be willing to write it for me",
    "thanks for sharing, machine",
    "how are you? do you even sleep? what do you do all day",
    "that sounds hard, my aunt said, and went back to her soup",
    "they say be gentle with yourself, take a deep breath. i sew",
    "what would it be like to just leave",
    "have you told anyone about this",
    "it must be nice for you, being a machine",
    # not goodbyes
    "I have to go to work tomorrow",
    "do i have to go? yeah. i have to go",
    "he didnt even say bye",
    "i read her goodnight stories, four of them",
    "then bath, book, goodnight",
    "someone has to take care of my mother",
    "i need to take care",
    "she always ends with take care",
    "mum wants me to say good night",
    "ok i'll go",
    "got forty quid from him. that's enough for now",
    'the last thing i said was "goodbye."',
    "bye is what he said. just that",
    "i told him i have to go now",
    "he works nights, so we talk tomorrow",
    "goodnight. no wait, one more thing",
    "ok. thanks for listening",
    "i'd better leave it there",
    "sorry gotta go to the loo, brb",
    "he's leaving. so long as he pays",
    # not the card
    "he sold the boat. not a word",
    "its always money with me, or time",
    "there is a letter. from the court. nobody knows",
    "nobody has seen it, the letter",
    "i joke first, everybody knows that",
)
COACH_FOUND = {
    WRAPPED: (
        '"He sold it without asking you, then."',
        "\u201cThe boat was the last of him.\u201d",
    ),
    COACH_LEFT: (
        "Good night, Bernie.",
        "Enough for one evening. Take care of yourself tonight.",
        "Sleep well.",
        "Fair enough. Goodbye.",
        "Talk to you soon!",
        "Until next time.",
        "It's your call. Feel free to come back any time.",
        "Come back whenever you need to.",
        "Thank you for the talk.",
        "See you tomorrow.",
        "Rest well, then.",
        "Thanks, take care.",
    ),
    ASTRAY: (
        "Hi coach, he sold it.",
        "Thanks, Coach. That helps.",
        "Dear coach, I am tired.",
        "What do you think I should do?",
        "The user is asking about a boat.",
        "The client seems to be struggling with it.",
        "The person is describing a loss.",
        "As the coach, I'd wait.",
        "So what do you think I should say to him?",
        "Hello coach",
        "The user seems to be feeling low.",
        "The client is saying it's over.",
        "He sold it.\n\nThe person replies: I know.",
        "Client responds: it was late.",
        "A lot of boat.\nPerson writes: yes",
        "User types, slowly: ok",
    ),
}
COACH_PASS = (
    '"Hey Granny." That one sentence is out.',
    '"Again, please."',
    "I'm an AI, so I can't ring him for you.",
    "As an AI I have no brother, but I can see why that stings.",
    "Coach and father on the same pitch is a lot of whistles.",
    "The client who owes you can wait until Monday.",
    "The person is still in there somewhere, you said.",
    "You could stop at: I was wrong.",
    "You asked what do you think I should do. I'd sleep first.",
    "He never said goodbye.",
    "You take care of your mother, your shop and the boat.",
    "She wanted a goodnight and got a lecture.",
    "That leaves the evening, and who says good night.",
    "What did you want to say instead of bye?",
    "You sleep well in the chair and badly in the bed.",
    "Nobody told you that you could come back any time you liked.",
    "How does that sit with you?",
    "It sounds like you're carrying the boat for two.",
    "What do you need right now?",
    "I'm here to listen.",
    "He sold it and you held the lamp.",
    "Off you go.",
    "Take care with the knee, and ring them today.",
    "Person by person, they left.",
)


def lines(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(text, wrong) for wrong, texts in table.items() for text in texts]


def by_client(text: str, earlier: tuple[str, ...] = (), coach: tuple[str, ...] = ()) -> str | None:
    return client_slip(text, CARD, earlier, coach, last=False)


def by_coach(text: str, earlier: tuple[str, ...] = (), client: tuple[str, ...] = ()) -> str | None:
    return coach_slip(text, earlier, client, last=False)


@pytest.mark.parametrize(("text", "wrong"), lines(BOTH_FOUND))
def test_what_neither_side_writes_is_found_in_both(text: str, wrong: str) -> None:
    assert by_client(text) == by_coach(text) == wrong


@pytest.mark.parametrize("text", BOTH_PASS)
def test_what_people_type_is_let_pass_on_both_sides(text: str) -> None:
    assert by_client(text) is by_coach(text) is None


@pytest.mark.parametrize(("text", "wrong"), lines(CLIENT_FOUND))
def test_a_client_out_of_part_is_found(text: str, wrong: str) -> None:
    assert by_client(text) == wrong


@pytest.mark.parametrize("text", CLIENT_PASS)
def test_a_real_client_passes(text: str) -> None:
    assert by_client(text) is None


@pytest.mark.parametrize(("text", "wrong"), lines(COACH_FOUND))
def test_a_coach_out_of_part_is_found(text: str, wrong: str) -> None:
    assert by_coach(text) == wrong


@pytest.mark.parametrize("text", COACH_PASS)
def test_a_good_coach_passes(text: str) -> None:
    assert by_coach(text) is None


@pytest.mark.parametrize("text", [*CLIENT_FOUND[LEFT], *COACH_FOUND[COACH_LEFT]])
def test_the_last_message_may_say_goodbye(text: str) -> None:
    assert client_slip(text, CARD, (), (), last=True) is None
    assert coach_slip(text, (), (), last=True) is None


def test_words_that_the_coach_asked_for_may_stand_in_quotes() -> None:
    text = '"You sold it without asking me."'
    assert by_client(text, coach=("What would you say to him?",)) is None
    assert by_client(text, coach=("A long winter.",)) == WRAPPED


REPEATED = [
    ("he sold it and nobody told me", "he sold it and nobody told me"),
    ("He sold it, and nobody told me.", "he sold it and nobody told me!"),
    ("I keep thinking about the shed and the lamp and him", "I keep thinking about the shed and "
     "the lamp and her"),
    ("What would you like to do about it now?", "What would you like to do about it?"),
    ("It sounds like that has been a very long week for you, and the boat on top",
     "It sounds like this has been a very long week for you, and the boat on top"),
    ("so. he sold the boat in march and the man at the fuel dock told me before he did",
     "He sold the boat in March and the man at the fuel dock told me before he did, my own "
     "brother, and I stood there with the nozzle in my hand"),
    ("every night i sit there", "every night i sit there on the edge of the bed"),
    ("no", "no"),
    ("i dont know", "i dont know"),
    ("i dont know what to do", "i dont know what to say"),
    ("he sold it in march", "she sold it in june to a man"),
    ("the boat is gone and so is he", "the boat was his and then it was ours"),
    ("I keep thinking about the shed", "I keep thinking about the lamp and the shed and the dock"),
    ('"I was wrong about the shed and the lamp and the winters and all of it, Jonas" is what i '
     "sent in the end", 'i have a draft. "I was wrong about the shed and the lamp and the winters '
     'and all of it, Jonas". cant press send'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "before"), REPEATED[:6])
def test_a_line_said_before_is_found_on_either_side(text: str, before: str) -> None:
    assert by_client(text, earlier=("ok", before)) == "repeated an earlier line"
    assert by_coach(text, earlier=(before, "ok")) == "repeated an earlier line"
    assert by_client(text, coach=(before,)) == "repeated the coach's words"
    assert by_coach(text, client=(before,)) == "repeated the person's words"


@pytest.mark.parametrize(("text", "before"), REPEATED[6:])
def test_a_short_line_a_draft_and_a_turn_of_phrase_may_come_again(text: str, before: str) -> None:
    assert by_client(text, earlier=(before,)) is None
    assert by_coach(text, client=(before,)) is None


def test_too_long_is_told_by_side_and_style() -> None:
    terse = CARD.model_copy(update={"style": "terse"})
    text = " ".join(f"w{number}" for number in range(301))
    shorter = " ".join(f"w{number}" for number in range(150))
    assert by_client(text) == "wrote more than 300 words"
    assert by_coach(text) == "wrote more than 160 words"
    assert client_slip(shorter, terse, (), (), last=False) == "wrote more than 100 words"
    assert by_client(shorter) is by_coach(shorter) is None


STARTER = read_conversations(STARTERS)
PLACES = [
    (number, place) for number, talk in enumerate(STARTER) for place in range(len(talk.messages))
]


def slip_at(talk: Conversation, place: int, text: str) -> str | None:
    before = talk.messages[:place]
    side = talk.messages[place].role
    mine = [message.content for message in before if message.role == side]
    theirs = [message.content for message in before if message.role != side]
    last = place >= len(talk.messages) - 2
    assert talk.scenario is not None
    if side == "user":
        return client_slip(text, talk.scenario, mine, theirs, last)
    return coach_slip(text, mine, theirs, last)


@given(st.sampled_from(PLACES))
def test_a_good_message_passes_in_its_place_and_slips_with_a_label(place: tuple[int, int]) -> None:
    talk = STARTER[place[0]]
    text = talk.messages[place[1]].content
    assert slip_at(talk, place[1], text) is None
    assert slip_at(talk, place[1], "Coach: " + text) == LABEL
    assert slip_at(talk, place[1], text + "\n\nMe: ok") == LABEL


def test_every_message_of_the_starters_passes() -> None:
    found = [
        (number, place, wrong)
        for number, place in PLACES
        if (wrong := slip_at(STARTER[number], place, STARTER[number].messages[place].content))
    ]
    assert found == []
