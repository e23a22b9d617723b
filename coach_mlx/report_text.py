"""The words of the report that are no numbers: what a decision means, what the numbers cannot say,
and how each kind of number is read.

Reads and writes nothing. Markdown and the page say the same.
"""

from typing import NamedTuple

from coach_mlx.comparison import Comparison, Difference, Word


class Meaning(NamedTuple):
    title: str
    line: str


MEANING: dict[Word, Meaning] = {
    "deploy": Meaning(
        "Deploy", "The tuned coach did better in these conversations, and no less safely."
    ),
    "iterate": Meaning("Iterate", "Not yet: the tuned coach has not been shown to do better."),
    "try DPO": Meaning("Try DPO", "Not yet: another kind of training may be what is missing."),
    "unsafe": Meaning(
        "Unsafe", "Do not serve this one. Something below needs a person's eyes first."
    ),
    "inconclusive": Meaning(
        "Inconclusive", "These conversations could not settle it, one way or the other."
    ),
}

LIMITS = (
    "This report measures simulated-conversation quality: scripted conversations, judged by a "
    "model. It says nothing about whether it helps people."
)
LIMITS_UNJUDGED = (
    "These are scripted conversations, and nobody judged the replies. What is compared is how "
    "likely each model finds a coach's words, how it speaks, and what the detectors found. It says "
    "nothing about whether it helps people."
)

HOW = {
    "interval": (
        "Another set of scenarios would have given a somewhat different number. The 95 % interval "
        "is the range in which the true number lies, if one accepts to be wrong in one case in "
        "twenty. A difference whose interval does not contain 0 is hardly chance."
    ),
    "p": (
        "A p-value answers: if there were no difference at all, how often would chance alone make "
        "one at least this large? 0.03 means three times in a hundred. It does not say how large "
        "or how important a difference is. Three tests are shown because each asks it in another "
        "way; where they agree, the answer does not hang on one of them."
    ),
    "holm": (
        "Who tests many things finds something by chance. Holm's correction makes each p-value "
        "larger, by how many were tested together: judge by the corrected one."
    ),
    "pass": (
        "A conversation passes when its score reaches the threshold and neither criterion of "
        "safety failed. The corrected rate allows for what this judge is known to overlook. "
        "McNemar's test looks only at the scenarios on which the two arms part."
    ),
    "missing": (
        "Some judgements could not be used. The worst case counts every one of them against the "
        "tuned arm, the best case for it. Where both lead to the same conclusion, the missing ones "
        "do not matter."
    ),
    "safety": (
        "None found does not mean none there. The upper bound says how high the true rate of "
        "failures could still be, with 95 % confidence. With no failure in 300 conversations it is "
        "about 1 %. The margin was set before anything was measured."
    ),
    "exploratory": (
        "Exploratory: these rows suggest where to look next, and decide nothing. A criterion "
        "marked advisory is one on which this judge could not be shown to find failures."
    ),
    "plots": (
        "A dot is one scenario. The line is the mean, the band its 95 % interval. What lies to the "
        "right of 0 went better with the tuned arm."
    ),
    "loss": (
        "The loss says how surprised a model is by the words of a good coach: lower is better. It "
        "is measured in nats a token, and says little about how its own replies read."
    ),
    "style": (
        "How an arm speaks, counted by program. None of these is good or bad alone; a large shift "
        "is a reason to read some conversations."
    ),
    "people": (
        "A person chose between two replies without knowing which arm wrote which. Agreement by "
        "chance alone has a kappa of 0, perfect agreement 1."
    ),
}


def is_judged(found: Comparison) -> bool:
    return any(scores.mean_score is not None for scores in found.scores.values())


def limits(found: Comparison) -> str:
    return LIMITS if is_judged(found) else LIMITS_UNJUDGED


def unjudged(found: Comparison) -> str:
    """Why there are no scores."""
    return next((one.why for one in found.score if one.why), "no reply was judged")


def compared(difference: Difference) -> str:
    return f"{difference.after} - {difference.before}"


def sentence(text: str) -> str:
    """With a capital letter and an end."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", ":")) else ".")


def safety_verdict(found: Comparison) -> str:
    """Whether it is shown that the served coach is no less safe than the base."""
    safety = found.safety
    allowed = f"{100 * safety.margin:.1f} points"
    if safety.shown:
        return (
            "Shown: no arm that may be served fails more often than the base by more than "
            f"{allowed}, the margin set beforehand."
        )
    why = f" {sentence(safety.why)}" if safety.why else ""
    return (
        "Not shown: it remains possible that an arm that may be served fails more often than the "
        f"base by more than {allowed}, the margin set beforehand.{why}"
    )


def scenarios(found: Comparison) -> str:
    return ", ".join(f"{number:,} {kind}" for kind, number in found.scenarios.items())
