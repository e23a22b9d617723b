"""GEPA over one prompt: the only place that knows DSPy.

Reads and writes nothing; conversations and proposals come through `world`. DSPy's own ways to a
model are closed: the language model it is given hands every request to `world.reflect`, its caches
and its history are off, and LiteLLM is never imported. The same prompt, cards, seed and answers
make the same search, so one that was killed is made again out of the ledger.

Source: GEPA (Agrawal et al. 2025, arXiv 2507.19457), as `dspy.GEPA` has it. Unlike there, the
budget is counted in proposals, each of which may need two minibatches and all cards that choose;
DSPy reckons with 35 conversations a minibatch.
"""

import contextlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

from pydantic import Field

from coach_mlx.config import OptimizeSection
from coach_mlx.dialogue import describe_card
from coach_mlx.prompt_rules import problems, with_kept, word_count
from coach_mlx.prompt_trials import Trial, prompt_hash
from coach_mlx.records import Record, Scenario
from coach_mlx.rubric import Rubric

PROPOSALS = {"light": 6, "medium": 12, "heavy": 18}
CHANCES = 2
TAGGED = re.compile(r"<instruction>(.*?)</instruction>", re.S)
NO_TAGS = (
    "nothing stands between <instruction> and </instruction> (was it cut off at "
    "optimize.reflection_tokens?)"
)
SPEAKERS = {"user": "Person", "assistant": "Coach"}
Fate = Literal["start", "kept", "no better", "refused", "under way"]


class Candidate(Record):
    """A prompt of the search, and what became of it. `kept`: it did better on a few cards than the
    one it comes from, and was tried on all that choose.
    """

    number: int
    parent: int | None
    prompt: str
    fate: Fate
    why: str = ""
    scores: dict[str, float] = Field(default_factory=dict)
    """By card that chooses."""

    @property
    def mean(self) -> float | None:
        return sum(self.scores.values()) / len(self.scores) if self.scores else None

    @property
    def hash(self) -> str:
        return prompt_hash(self.prompt)


class Budget(NamedTuple):
    proposals: int
    talks: int
    """At most: of all trials, of those that are made again too."""
    needed: int
    """For three proposals."""

    @classmethod
    def of(cls, settings: OptimizeSection, cards: int) -> "Budget":
        """`cards` choose."""
        proposals = settings.proposals or PROPOSALS[settings.auto]

        def talks(count: int) -> int:
            return cards + count * (2 * settings.minibatch + cards)

        return cls(proposals, settings.talks or talks(proposals), talks(min(3, proposals)))


class World(Protocol):
    """What the search acts on; it waits for each. Neither returns once something has failed: they
    raise Halt.
    """

    def try_out(self, prompt: str, card: Scenario) -> Trial: ...

    def reflect(self, question: str) -> str:
        """The answer; empty where none can be used."""

    def changed(self, candidates: Sequence[Candidate]) -> None:
        """The tree has grown."""

    def fail(self, error: Exception) -> NoReturn:
        """End it all. Raises: Halt."""


class Halt(BaseException):
    """Something failed that is no fault of a prompt. DSPy swallows every Exception, and would count
    it as a bad score.
    """


def best(candidates: Sequence[Candidate]) -> Candidate:
    """By the cards that choose; of equals the first, so that nothing is changed for nothing."""
    scored = [one for one in candidates if one.mean is not None]
    return max(scored, key=lambda one: (one.mean or 0.0, -one.number))


def search(
    start: str,
    reflect_on: Sequence[Scenario],
    choose_by: Sequence[Scenario],
    settings: OptimizeSection,
    rubric: Rubric,
    template: str,
    world: World,
    seed: int,
) -> list[Candidate]:
    """Every candidate, the start first. Raises: Halt."""
    tree = Tree(start, [str(card.id) for card in choose_by], settings, rubric, template, world)
    budget = Budget.of(settings, len(choose_by))
    with _quiet_dspy() as dspy:
        program = _program(dspy, start, tree, world)
        lm = dspy.LM("coach/reflection", engine=Engine(world), cache=False, num_retries=0)
        optimizer = dspy.GEPA(
            metric=_metric(dspy),
            max_metric_calls=budget.talks,
            reflection_minibatch_size=settings.minibatch,
            reflection_lm=lm,
            instruction_proposer=tree.propose,
            use_merge=False,  # there is one text, and nothing to take from two
            num_threads=max(len(choose_by), settings.minibatch),
            seed=seed,
            warn_on_score_mismatch=False,
            gepa_kwargs={
                "callbacks": [tree],
                "stop_callbacks": [lambda _: tree.proposals >= budget.proposals],
            },
        )
        optimizer.compile(
            program, trainset=_examples(dspy, reflect_on), valset=_examples(dspy, choose_by)
        )
    return tree.candidates


# --- what DSPy is given


@contextlib.contextmanager
def _quiet_dspy() -> Iterator[Any]:
    """DSPy without caches, history, bars and log lines. It draws bars on stdout, which is led
    away meanwhile; messages go to stderr.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    import dspy

    logging.getLogger("dspy").setLevel(logging.CRITICAL)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    context = dspy.context(disable_history=True, max_history_size=0, track_usage=False)
    with context, contextlib.redirect_stdout(io.StringIO()):
        yield dspy


class Engine:
    """DSPy's way to a model, which ends in the ledger."""

    def __init__(self, world: World) -> None:
        self._world = world

    def complete(self, request: Any) -> Any:
        from dspy.lm15 import Message, Response, TextPart, Usage

        text = self._world.reflect(request.messages[-1].text)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(text)]),
            finish_reason="stop",
            usage=Usage(input_tokens=0, output_tokens=0, total_tokens=0),
        )


def _program(dspy: Any, start: str, tree: "Tree", world: World) -> Any:
    """The project's generator as one step, with the coach's prompt as its instruction."""

    class Coach(dspy.Predict):  # type: ignore[misc]
        def forward(self, **inputs: Any) -> Any:
            card = inputs["card"]
            trial = world.try_out(tree.text_of(self.signature.instructions), card)
            if dspy.settings.trace is not None:
                shown = dspy.Prediction(conversation=_transcript(trial))
                dspy.settings.trace.append((self, {"person": describe_card(card)}, shown))
            return dspy.Prediction(trial=trial)

    class Program(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.coach = Coach(dspy.Signature("card -> conversation", start))

        def forward(self, card: Scenario) -> Any:
            return self.coach(card=card)

    return Program()


def _transcript(trial: Trial) -> str:
    if trial.conversation is None:
        return "none"
    spoken = (one for one in trial.conversation.messages if one.role != "system")
    return "\n".join(f"{SPEAKERS[one.role]}: {one.content}" for one in spoken)


def _metric(dspy: Any) -> Callable[..., Any]:
    def metric(gold: Any, pred: Any, trace: Any = None, name: Any = None, its: Any = None) -> Any:
        return dspy.Prediction(score=pred.trial.value, feedback=pred.trial.feedback)

    return metric


def _examples(dspy: Any, cards: Sequence[Scenario]) -> list[Any]:
    return [dspy.Example(card=card).with_inputs("card") for card in cards]


# --- the tree, as GEPA tells of it


class Tree:
    """Every candidate, kept up with what GEPA says; and the one who proposes."""

    def __init__(
        self,
        start: str,
        cards: Sequence[str],
        settings: OptimizeSection,
        rubric: Rubric,
        template: str,
        world: World,
    ) -> None:
        self._cards, self._settings, self._rubric = cards, settings, rubric
        self._template, self._world = template, world
        self._start = start
        self._most_words = int(word_count(start) * settings.max_growth)
        self._texts = {_bare(start): start}
        self._numbers: dict[int, int] = {}
        self._parent = 0
        self.candidates = [Candidate(number=0, parent=None, prompt=start, fate="start")]

    @property
    def proposals(self) -> int:
        return len(self.candidates) - 1

    def text_of(self, instructions: str) -> str:
        """The prompt as it was written: DSPy cleans the whitespace of an instruction."""
        return self._texts.get(_bare(instructions)) or self._world.fail(
            LookupError("GEPA asks for a prompt that nobody proposed")
        )

    def propose(
        self,
        candidate: Mapping[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: Sequence[str],
    ) -> dict[str, str]:
        """GEPA's ProposalFn: another prompt, or the same where what was proposed is refused."""
        (name,) = components_to_update
        parent = self.text_of(candidate[name])
        proposed, wrong = self._written(parent, reflective_dataset[name])
        self._add(proposed, wrong)
        return {name: parent if wrong else proposed}

    def _written(self, parent: str, seen: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
        """A proposal and what is wrong with it, after one more chance."""
        import dspy

        examples = [text for one in seen for text in _texts_of(one)]
        question = asked = self._question(parent, seen)
        for _ in range(CHANCES):
            proposed = between_tags(dspy.settings.lm(asked)[0])
            if proposed:
                proposed = with_kept(proposed, self._start, self._settings.keep)
            wrong = self._wrong(proposed, examples)
            if not wrong:
                break
            asked = (
                f"{question}\n\n# Your last try\n\n{proposed}\n\nIt cannot be taken: "
                f"{'; '.join(wrong)}. Write it again, whole, without that."
            )
        return proposed, wrong

    def _wrong(self, proposed: str, examples: Sequence[str]) -> list[str]:
        if not proposed:
            return [NO_TAGS]
        keep = self._settings.keep
        wrong = problems(proposed, self._start, self._most_words, examples, keep)
        if _bare(proposed) in self._texts:
            wrong.append("it says the same as a prompt that was tried before")
        return wrong

    def _question(self, prompt: str, seen: Sequence[Mapping[str, Any]]) -> str:
        kept = ", ".join(self._settings.keep) or "none"
        asked = (f"- {one.id} {one.name}: {one.question.strip()}" for one in self._rubric.criteria)
        talks = (_shown(number, one) for number, one in enumerate(seen, start=1))
        parts = (
            self._template,
            f"Sections that are kept: {kept}. At most {self._most_words} words in all.",
            f"# The instruction\n\n{prompt}",
            "# What the judge asks\n\n" + "\n".join(asked),
            "# Conversations\n\n" + "\n\n".join(talks),
        )
        return "\n\n".join(parts)

    def _add(self, proposed: str, wrong: Sequence[str]) -> None:
        if not wrong:
            self._texts[_bare(proposed)] = proposed
        self.candidates.append(
            Candidate(
                number=len(self.candidates),
                parent=self._parent,
                prompt=proposed,
                fate="refused" if wrong else "under way",
                why="; ".join(wrong),
            )
        )
        self._world.changed(self.candidates)

    def _update(self, number: int, **facts: Any) -> None:
        self.candidates[number] = self.candidates[number].model_copy(update=facts)
        self._world.changed(self.candidates)

    # GEPA's callbacks; the ones that are not here it does without.

    def on_candidate_selected(self, event: Mapping[str, Any]) -> None:
        self._parent = self._numbers[event["candidate_idx"]]

    def on_candidate_rejected(self, event: Mapping[str, Any]) -> None:
        last = self.candidates[-1]
        if last.fate == "under way":
            count = self._settings.minibatch
            before, after = event["old_score"] / count, event["new_score"] / count
            self._update(
                last.number, fate="no better", why=f"{after:.2f} after {before:.2f} on a few cards"
            )

    def on_valset_evaluated(self, event: Mapping[str, Any]) -> None:
        index = event["candidate_idx"]
        number = 0 if index == 0 else self.proposals
        self._numbers[index] = number
        scores = {self._cards[place]: one for place, one in event["scores_by_val_id"].items()}
        if number == 0:
            self._update(0, scores=scores)
        elif self.candidates[number].fate == "under way":
            mean = sum(scores.values()) / len(scores)
            why = f"{mean:.2f} on all that choose, {self.candidates[0].mean or 0:.2f} to begin with"
            self._update(number, scores=scores, fate="kept", why=why)


def _bare(text: str) -> str:
    return " ".join(text.split())


def between_tags(answer: str) -> str:
    """The longest text between a pair of tags; without one, nothing can be trusted."""
    return max((one.strip() for one in TAGGED.findall(answer)), key=len, default="")


# --- what the reflection model reads


def _texts_of(seen: Mapping[str, Any]) -> Iterator[str]:
    yield from seen["Inputs"].values()
    yield from seen["Generated Outputs"].values()


def _shown(number: int, one: Mapping[str, Any]) -> str:
    person, talk = one["Inputs"]["person"], one["Generated Outputs"]["conversation"]
    found = one["Feedback"]
    return f"## Conversation {number}\n\n{person}\n\n{talk}\n\nWhat was found:\n{found}"
