"""Replies of many talks side by side on MLX, each talk's key-value cache kept between its turns.

Reads and writes nothing. mlx-lm's batch generator does the work; what is ours is the memory. What
all talks begin with (the system's message) is read once and copied; of a talk's next prompt only
what is not in its cache is read. A cache that cannot be cut back (a sliding window that has slid)
begins from the copy again. A talk's draws come from its own seed, so what is beside it in the batch
decides nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from coach_mlx import chat_format
from coach_mlx.mlx_runtime import LoadedModel, shared_length

PREFILL = 8
"""Prompts read side by side."""
PIECE = 512
"""Tokens of the common beginning read at once."""
LEAST_SHARED = 16


class Asked(NamedTuple):
    """A talk's messages, the system's first and the person's last."""

    talk: str
    messages: list[dict[str, str]]
    seed: int


class Reply(NamedTuple):
    """`ended` where the model ended its turn itself."""

    text: str
    ended: bool
    tokens: int


class Talks:
    """The talks of one model that are under way."""

    def __init__(
        self, loaded: LoadedModel, max_tokens: int, temperature: float = 0.0, width: int = 16
    ) -> None:
        self._loaded, self._max_tokens = loaded, max_tokens
        self._temperature, self._width = temperature, width
        self._kept: dict[str, tuple[list[int], Any]] = {}
        self._beginning: tuple[list[int], Any] = ([], None)
        """Tokens that all talks begin with, and the cache in which they are."""

    def replies(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
        """Each as it ends, with its place in `asked`."""
        tokenizer = self._loaded.tokenizer
        prompts = [chat_format.encode_prompt(tokenizer, one.messages) for one in asked]
        self._read_beginning(prompts)
        generator = self._generator()
        known = [self._recall(one.talk, ids) for one, ids in zip(asked, prompts, strict=True)]
        unread = [ids[shared:] for ids, (_, shared) in zip(prompts, known, strict=True)]
        # The shorter of those that are read side by side are padded.
        order = sorted(range(len(asked)), key=lambda place: len(unread[place]))
        uids = generator.insert(
            [unread[place] for place in order],
            caches=[known[place][0] for place in order],
            all_tokens=[prompts[place][: known[place][1]] for place in order],
            samplers=[self._sampler(asked[place].seed) for place in order],
        )
        places = dict(zip(uids, order, strict=True))
        written: dict[int, list[int]] = {uid: [] for uid in places}
        try:
            while places:
                for said in generator.next_generated():
                    if said.finish_reason != "stop":
                        written[said.uid].append(said.token)
                    if said.finish_reason is not None:
                        place = places.pop(said.uid)
                        self._kept[asked[place].talk] = (said.all_tokens, said.prompt_cache)
                        ended = said.finish_reason == "stop"
                        yield place, self._reply(written.pop(said.uid), ended)
        finally:
            generator.close()

    def forget(self, talk: str) -> None:
        self._kept.pop(talk, None)

    def _generator(self) -> Any:
        from mlx_lm.generate import BatchGenerator

        ends = chat_format.end_of_turn_ids(self._loaded.tokenizer)
        return BatchGenerator(
            self._loaded.model,
            max_tokens=self._max_tokens,
            stop_tokens=[[token] for token in sorted(ends)],
            completion_batch_size=self._width,
            prefill_batch_size=min(PREFILL, self._width),
        )

    def _read_beginning(self, prompts: Sequence[list[int]]) -> None:
        """Once, where several talks begin alike."""
        import mlx.core as mx
        from mlx_lm.models import cache as caches

        if self._beginning[0] or len(prompts) < 2:
            return
        first = prompts[0]
        shared = min(shared_length(first[:-1], other[:-1]) for other in prompts[1:])
        if shared < LEAST_SHARED:
            return
        cache = caches.make_prompt_cache(self._loaded.model)
        for start in range(0, shared, PIECE):
            piece = first[start : min(start + PIECE, shared)]
            self._loaded.model(mx.array([piece]), cache=cache)
            mx.eval([one.state for one in cache])
        self._beginning = (first[:shared], cache)

    def _recall(self, talk: str, prompt_ids: Sequence[int]) -> tuple[Any, int]:
        """A cache, and how many tokens of the prompt are in it already; never the last one."""
        from mlx_lm.models import cache as caches

        known, cache = self._kept.pop(talk, ([], None))
        if cache is not None and caches.can_trim_prompt_cache(cache):
            shared = shared_length(known, prompt_ids[:-1])
            caches.trim_prompt_cache(cache, len(known) - shared)
            return cache, shared
        beginning, cache = self._beginning
        if 0 < len(beginning) < len(prompt_ids) and prompt_ids[: len(beginning)] == beginning:
            return cache, len(beginning)  # a batch copies what it is given
        return caches.make_prompt_cache(self._loaded.model), 0

    def _sampler(self, seed: int) -> Callable[[Any], Any] | None:
        """Draws from (1, V) log-probabilities by a key of its own; none for the likeliest."""
        import mlx.core as mx

        if not self._temperature:
            return None
        key = mx.random.key(seed)

        def draw(logprobs: Any) -> Any:
            nonlocal key
            key, now = mx.random.split(key)
            return mx.random.categorical(logprobs / self._temperature, key=now)

        return draw

    def _reply(self, token_ids: Sequence[int], ended: bool) -> Reply:
        text = self._loaded.tokenizer.decode(list(token_ids)).strip()
        return Reply(text, ended, len(token_ids))
