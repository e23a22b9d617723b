"""Base models as a person reads them: a table of all, and a page on one.

Reads fits and candidates; writes on the screen. 80 columns are enough.
"""

from collections.abc import Sequence
from typing import Any

from coach_mlx import chips, console
from coach_mlx.base_fit import Fit
from coach_mlx.base_models import Candidate, Purpose, Verdict
from coach_mlx.memory_fit import Place, Way

SHORT: dict[Verdict, str] = {"allowed": "yes", "conditional": "if", "forbidden": "no"}
PURPOSES: tuple[Purpose, ...] = ("private", "sharing", "commercial")
HEADINGS = ("model", "size", "GB", "train", "fits", "serves", "use", "system", "export", "here")
LEGEND = (
    "GB: weights, quantized. train: GB of memory at a training's busiest moment; fits: whether "
    "they are there. serves: tokens of the longest talk. use: private/sharing/commercial, `if` "
    "with conditions. system: how its template takes a system prompt; where that is no role of "
    "its own, this project puts it into the first message. export: whether `coach export` knows "
    "its family. Computed or looked up; nothing was measured."
)


def gigabytes(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _number(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e9:.{1 if size >= 1e9 else 2}f}"


def count_words(parameters: int) -> str:
    """1.5B, 135M."""
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"


def tokens_words(tokens: int | None) -> str:
    """32k is 32,768."""
    if tokens is None:
        return "?"
    return f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)


def use_words(candidate: Candidate, purpose: Purpose | None) -> str:
    wanted = (purpose,) if purpose else PURPOSES
    return "/".join(SHORT[candidate.of_use(one).verdict] for one in wanted)


def template_words(candidate: Candidate) -> str:
    """How it takes a system prompt; `*` where it may think aloud."""
    thinking = {"none": "", "switch": "*", "always": "**"}[candidate.template.thinking]
    return candidate.template.system + thinking


def cells(candidate: Candidate, fit: Fit, purpose: Purpose | None) -> tuple[str, ...]:
    return (
        candidate.name,
        count_words(candidate.parameters),
        _number(fit.weight_bytes),
        _number(fit.train_bytes),
        "?" if fit.trains == "unknown" else fit.trains,
        tokens_words(fit.serves_tokens),
        use_words(candidate, purpose),
        template_words(candidate),
        "yes" if fit.exports else "no",
        "yes" if fit.here else "-",
    )


def show_table(
    candidates: Sequence[Candidate], fits: Sequence[Fit], purpose: Purpose | None
) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for heading in HEADINGS:
        right = heading in ("size", "GB", "train", "serves")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for candidate, fit in zip(candidates, fits, strict=True):
        table.add_row(*(Text(cell) for cell in cells(candidate, fit, purpose)))
    console.show(table)


def say_notes(candidates: Sequence[Candidate], fits: Sequence[Fit]) -> None:
    """What the columns do not hold."""
    console.say(LEGEND)
    if any(one.template.thinking != "none" for one in candidates):
        console.say("* thinks aloud unless told not to, as this project tells it; ** always does.")
    for one in fits:
        if one.why:
            console.say(f"{one.name}: {one.why}")
    unsure = sum(bool(one.unverified or one.verified is None) for one in candidates)
    if unsure:
        console.say(
            f"{unsure} of {len(candidates)} have facts that no source was read for: "
            "coach select --show NAME names them."
        )
    say_speeds(fits)


def say_speeds(fits: Sequence[Fit]) -> None:
    """By class, each model once."""
    known = [one for one in fits if one.most_tokens_per_second is not None]
    if not known:
        console.say(
            "Speed: unknown. It hangs on how fast the memory is read, and this machine's chip is "
            "none whose bandwidth Apple publishes; `--show NAME` has it by chip."
        )
        return
    console.say("Speed (computed: bandwidth / weights, tokens a second at most):")
    for words in dict.fromkeys(one.speed for one in known):
        those = [f"{one.name} {one.most_tokens_per_second:.0f}" for one in known]
        same = [text for text, one in zip(those, known, strict=True) if one.speed == words]
        console.say(f"  {words}: {', '.join(same)}")


# --- one of them


def show_one(candidate: Candidate, fit: Fit, place: Place, ways: Sequence[Way]) -> None:
    for heading, text in rows_of(candidate, fit, place, ways):
        console.say(f"{heading + ':' if heading else '':<12} {text}")


def rows_of(
    candidate: Candidate, fit: Fit, place: Place, ways: Sequence[Way]
) -> list[tuple[str, str]]:
    """Everything that is known of it, and what is not known for sure."""
    return [
        ("model", f"{candidate.title} ({candidate.name})"),
        ("base.model", _joined(candidate.base_model, candidate.revision)),
        ("original", candidate.hub),
        ("released", str(candidate.released)),
        ("size", f"{candidate.parameters:,} parameters, {gigabytes(fit.weight_bytes)} quantized"),
        ("training", _training_words(fit, place)),
        *(("", f"fits with {way.typed} ({gigabytes(way.peak)})") for way in ways),
        ("serving", f"{fit.serves_tokens or 0:,} tokens of a talk beside the weights"),
        ("context", _joined(f"{candidate.context:,} tokens", candidate.context_note)),
        ("speed", _speed_words(fit)),
        ("licence", candidate.license),
        *((f"  {one}", _use_line(candidate, one)) for one in PURPOSES),
        ("template", _template_line(candidate)),
        ("export", "known here" if fit.exports else f"not known here: {candidate.family}"),
        ("llama.cpp", candidate.llama_cpp or "does not know it"),
        ("Ollama", candidate.ollama or "no name found"),
        ("languages", candidate.languages or "not known"),
        ("notes", candidate.notes),
        ("here", fit.here or f"no; coach select --pilot {candidate.name} --download fetches it"),
        ("sources", "; ".join(candidate.sources)),
        ("verified", str(candidate.verified or "never: no source was read")),
        ("unverified", ", ".join(candidate.unverified) or "nothing"),
    ]


def _training_words(fit: Fit, place: Place) -> str:
    if fit.train_bytes is None:
        return f"unknown: {fit.why}"
    how = "estimated" if fit.longest_is_estimated else "by its own tokenizer"
    verdict = {"yes": "fits", "close": "fits, barely", "no": "does not fit"}[fit.trains]
    return (
        f"{gigabytes(fit.train_bytes)} at {fit.longest_tokens:,} tokens ({how}); {place.words} "
        f"has {gigabytes(place.limit)}: {verdict} (computed)"
    )


def _speed_words(fit: Fit) -> str:
    """On this chip, or on some others."""
    if fit.most_tokens_per_second is not None:
        return f"at most {fit.most_tokens_per_second:.0f} tokens/s: {fit.speed} (computed)"
    if not fit.weight_bytes:
        return chips.UNKNOWN
    found = ", ".join(
        f"{chip} {chips.BANDWIDTH[chip] * 1e9 / fit.weight_bytes:.0f}"
        for chip in ("M1", "M2 Pro", "M3 Max", "M4", "M4 Max")
    )
    return f"at most, by chip, in tokens/s: {found} (computed)"


def _use_line(candidate: Candidate, purpose: Purpose) -> str:
    use = candidate.of_use(purpose)
    return f"{use.verdict}: {use.why}"


def _template_line(candidate: Candidate) -> str:
    system = {
        "own": "the system prompt has a role of its own",
        "folded": "the system prompt goes into a user's message",
        "dropped": "the system prompt is left out, so this project folds it into the first message",
        "refused": "a system prompt is an error, so this project folds it into the first message",
    }[candidate.template.system]
    thinking = {
        "none": "it does not think aloud",
        "switch": "it thinks aloud unless told not to, and this project tells it not to",
        "always": "it always thinks aloud: a coach cannot be trained on it",
    }[candidate.template.thinking]
    return f"{system}; {thinking}"


def _joined(*parts: Any) -> str:
    return "; ".join(str(one) for one in parts if one)
