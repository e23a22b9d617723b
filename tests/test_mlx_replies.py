"""Replies side by side are the replies of one after the other, and each talk is read once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import make_adapter, make_tiny

from coach_mlx import chat_format, mlx_runtime
from coach_mlx.mlx_replies import Asked, Talks
from coach_mlx.mlx_runtime import LoadedModel

SYSTEM = {"role": "system", "content": "You are a calm coach. One question at a time."}
SAID = [
    ["I cannot sleep.", "It is three again.", "And the letter?", "Thanks."],
    ["My sister planned the whole party, and sent me a list of what to bring. " * 3, "A cake!"],
    ["hi", "no", "no idea", "maybe", "bye"],
]
TOKENS = 12


@pytest.fixture(scope="module")
def small(tiny: Path) -> LoadedModel:
    return mlx_runtime.open_model(tiny)


def alone(loaded: LoadedModel, said: Sequence[str], tokens: int = TOKENS) -> list[str]:
    """One talk from the beginning each time, without a cache."""
    messages, replies = [SYSTEM], []
    for words in said:
        messages = [*messages, {"role": "user", "content": words}]
        prompt_ids = chat_format.encode_prompt(loaded.tokenizer, messages)
        pieces = mlx_runtime.stream_reply(loaded.model, loaded.tokenizer, prompt_ids, tokens)
        replies.append("".join(pieces).strip())
        messages = [*messages, {"role": "assistant", "content": replies[-1] or "…"}]
    return replies


def together(
    talks: Talks, said: Sequence[Sequence[str]], known: Sequence[Sequence[str]] = ()
) -> list[list[str]]:
    """All talks turn by turn, going on after what is known."""
    replies = [list(one) for one in known] or [[] for _ in said]
    for turn in range(max(map(len, said))):
        places = [
            place
            for place, words in enumerate(said)
            if turn < len(words) and turn >= len(replies[place])
        ]
        asked = [
            Asked(f"talk {place}", history(said[place], replies[place]), 7 + turn)
            for place in places
        ]
        for at, reply in talks.replies(asked):
            replies[places[at]].append(reply.text)
    return replies


def history(said: Sequence[str], replies: Sequence[str]) -> list[dict[str, str]]:
    messages = [SYSTEM]
    for words, reply in zip(said, replies, strict=False):
        messages.append({"role": "user", "content": words})
        messages.append({"role": "assistant", "content": reply or "…"})
    return [*messages, {"role": "user", "content": said[len(replies)]}]


def test_side_by_side_with_kept_caches_is_the_same_text(small: LoadedModel) -> None:
    expected = [alone(small, said) for said in SAID]
    assert together(Talks(small, TOKENS), SAID) == expected
    assert together(Talks(small, TOKENS, width=2), SAID) == expected


def test_a_talk_that_is_resumed_goes_on_with_the_same_text(small: LoadedModel) -> None:
    whole = together(Talks(small, TOKENS), SAID)
    known = [replies[:place] for place, replies in enumerate(whole)]
    assert together(Talks(small, TOKENS), SAID, known) == whole


def test_what_is_beside_a_talk_decides_nothing_of_its_draws(small: LoadedModel) -> None:
    crowd = together(Talks(small, TOKENS, temperature=1.0), SAID)
    single = [together(Talks(small, TOKENS, temperature=1.0), [said])[0] for said in SAID[:1]]
    assert crowd[0] == single[0]
    assert crowd != together(Talks(small, TOKENS), SAID)
    assert crowd == together(Talks(small, TOKENS, temperature=1.0), SAID)


def test_only_what_is_new_is_read(small: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_lm.generate import BatchGenerator

    read: list[int] = []
    real = BatchGenerator.insert

    def watched(self: Any, prompts: list[list[int]], **options: Any) -> Any:
        read.extend(len(prompt) for prompt in prompts)
        return real(self, prompts, **options)

    monkeypatch.setattr(BatchGenerator, "insert", watched)
    [replies] = together(Talks(small, TOKENS), [SAID[2]])
    whole = [
        len(chat_format.encode_prompt(small.tokenizer, history(SAID[2], replies[:turn])))
        for turn in range(5)
    ]
    assert read[0] == whole[0]
    for turn in range(1, 5):  # babble is not always cut into the tokens that it was made of
        assert read[turn] <= whole[turn] - whole[turn - 1] + TOKENS
    assert sum(read) < 0.6 * sum(whole)
    talks = Talks(small, TOKENS)
    [(_, reply)] = talks.replies([Asked("a", history(["hi"], []), 1)])
    talks.forget("a")
    read.clear()
    list(talks.replies([Asked("a", history(["hi", "no"], [reply.text]), 1)]))
    assert read[0] > whole[0]


def test_what_all_talks_begin_with_is_read_once(
    small: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_lm.generate import BatchGenerator

    read: list[int] = []
    real = BatchGenerator.insert

    def watched(self: Any, prompts: list[list[int]], **options: Any) -> Any:
        read.extend(len(prompt) for prompt in prompts)
        return real(self, prompts, **options)

    monkeypatch.setattr(BatchGenerator, "insert", watched)
    talks = Talks(small, TOKENS)
    expected = [alone(small, said[:1]) for said in SAID]
    assert together(talks, [said[:1] for said in SAID]) == expected
    system = len(chat_format.encode_plain(small.tokenizer, SYSTEM["content"]))
    whole = [len(chat_format.encode_prompt(small.tokenizer, history(one, []))) for one in SAID]
    assert read == sorted(read)  # the shorter are padded
    assert all(
        part <= all_of_it - system for part, all_of_it in zip(read, sorted(whole), strict=True)
    )
    read.clear()
    together(talks, [["A new talk begins like the others."]])
    assert read[0] < system + 10


def test_a_reply_says_whether_it_came_to_its_end(
    small: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Asked("a", history(["hi"], []), 1)]
    [(_, cut)] = Talks(small, 5).replies(asked)
    assert (cut.ended, cut.tokens) == (False, 5)
    fourth = small.tokenizer.encode(cut.text, add_special_tokens=False)[3]
    monkeypatch.setattr(chat_format, "end_of_turn_ids", lambda _: {fourth})
    [(_, whole)] = Talks(small, 5).replies(asked)
    assert whole.ended and whole.tokens < 5
    assert cut.text.startswith(whole.text)


def test_the_real_small_model_says_the_same_side_by_side(smollm2: Path) -> None:
    loaded = mlx_runtime.open_model(smollm2)
    said = [one[:2] for one in SAID]
    assert together(Talks(loaded, 8), said) == [alone(loaded, one, 8) for one in said]


def test_a_cache_that_slides_is_made_anew(smollm2: Path, tmp_path: Path) -> None:
    folder = make_tiny(
        tmp_path / "sliding",
        smollm2,
        "gemma3_text",
        sliding_window=24,
        sliding_window_pattern=2,
        query_pre_attn_scalar=16,
        rope_local_base_freq=10000.0,
    )
    loaded = mlx_runtime.open_model(folder)
    expected = [alone(loaded, said, 5) for said in SAID]
    assert together(Talks(loaded, 5), SAID) == expected


def test_an_adapter_speaks_side_by_side_too(tiny: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny, tmp_path / "adapter")
    loaded = mlx_runtime.open_model(tiny, adapter)
    assert together(Talks(loaded, 5), SAID) == [alone(loaded, said, 5) for said in SAID]
