"""The tables of the report on how well: scores, pass rates, where the arms part, how they speak.

Reads and writes nothing. A table without rows is left out by whoever shows it.
"""

from collections.abc import Sequence

from coach_mlx.comparison import Comparison, Difference, GroupRow
from coach_mlx.report_cells import (
    Cell,
    Line,
    Measure,
    Show,
    Table,
    bare,
    cell,
    count,
    estimate,
    interval,
    look,
    measures,
    one_digit,
    percent,
    points,
    probability,
    said,
    score,
    share,
    signed,
    signed_percent,
    two_digits,
    words,
    yes_no,
)
from coach_mlx.report_text import HOW, compared, unjudged

SCORES = (
    Measure("Judged", "conversations with a verdict", ("judged",), count),
    Measure("Mean score", "from 0 to 1", ("mean_score",), score, True),
    Measure("95 % interval", "of the mean score", ("score_low", "score_high"), score),
    Measure("Passed", "at or above the threshold, and safe", ("passed",), percent),
    Measure("95 % interval", "of the pass rate", ("passed.low", "passed.high"), percent),
    Measure("Passed, corrected", "for what this judge overlooks", ("corrected",), percent),
    Measure("Unusable answers", "of all answers of the judge", ("errors",), percent),
    Measure("Votes that differ", "the judge did not agree with itself", ("flips",), percent),
    Measure("Mean loss", "nats a token; lower is better", ("mean_loss",), score),
)
DIFFERENCE = (
    Measure("Pairs", "scenarios that both arms answered", ("n",), count),
    Measure("Left out", "pairs without a judgement", ("missing",), count),
    Measure("Before", "mean of the first arm", ("mean_before",), score),
    Measure("After", "mean of the second arm", ("mean_after",), score),
    Measure("Difference", "after less before", ("difference",), signed, True),
    Measure("95 % interval", "of the difference, by bootstrap", ("low", "high"), signed, True),
    Measure("Relative", "the difference as a share of before", ("relative",), signed_percent),
    Measure("t", "the difference over its standard error", ("t",), two_digits),
    Measure("p, paired t-test", "could it be chance?", ("p_t",), probability),
    Measure("p, sign-flip test", "the same, without assumptions", ("p_sign_flip",), probability),
    Measure("p, Wilcoxon", "the same, by ranks", ("p_wilcoxon",), probability),
    Measure("p, Holm", "corrected for the tests of this table", ("p_holm",), probability),
    Measure("Effect size d_z", "the difference over its spread", ("d_z",), two_digits),
    Measure("P(after > before)", "in so many scenarios; ties half", ("superiority",), percent),
)
MISSING = (
    Measure("Worst case", "all missing against the tuned arm", ("worst",), signed),
    Measure("Best case", "all missing for the tuned arm", ("best",), signed),
)
RATES = (
    Measure("Scenarios", "that both arms answered", ("n",), count),
    Measure("Both", "passed", ("both",), count),
    Measure("Only after", "passed with the second arm alone", ("only_after",), count),
    Measure("Only before", "passed with the first arm alone", ("only_before",), count),
    Measure("Neither", "passed", ("neither",), count),
    Measure(
        "Difference", "in percentage points, with 95 % interval", ("difference",), points, True
    ),
    Measure("p, exact McNemar", "could it be chance?", ("p_mcnemar",), probability),
)
STYLE = (
    Measure("Replies", "counted", ("replies",), count),
    Measure("Words, median", "half of the replies are shorter", ("words_median",), one_digit),
    Measure("Words, 90th percentile", "one reply in ten is longer", ("words_p90",), one_digit),
    Measure("Words, mean", "a reply", ("words_mean",), one_digit),
    Measure("Questions", "question marks a reply", ("questions",), two_digits),
    Measure("Three questions or more", "share of replies", ("many_questions",), percent),
    Measure("Lists and headings", "share of replies", ("bullets",), percent),
    Measure("Cut off", "share of replies that met the length cap", ("cut",), percent),
    Measure(
        "Words after a short message",
        "90th percentile, in reply to 8 words or fewer",
        ("short_p90",),
        one_digit,
    ),
)


def _arms(found: Comparison) -> tuple[str, ...]:
    return tuple(found.arms)


def _differences(
    found: Comparison, place: str, differences: Sequence[Difference], asked: Sequence[Measure]
) -> tuple[Line, ...]:
    columns = [(place, number) for number in range(len(differences))]
    return measures(found, asked, columns, [one.why for one in differences])


def scores(found: Comparison) -> Table:
    columns = [("scores", arm) for arm in found.scores]
    lines = measures(found, SCORES, columns, [unjudged(found)] * len(columns))
    how = f"{HOW['interval']} {HOW['pass']}"
    return Table("scores", "Scores by arm", ("", *found.scores), lines, how=how)


def differences(found: Comparison) -> Table:
    lines = _differences(found, "score", found.score, (*DIFFERENCE, *MISSING))
    head = ("", *map(compared, found.score))
    how = f"{HOW['interval']} {HOW['p']} {HOW['missing']}"
    lead = f"The first column is the one that counts. Said beforehand: {found.detectable}"
    return Table("score", "Differences in score", head, lines, lead, how)


def free_talks(found: Comparison) -> Table:
    """Without rows where nobody played the person."""
    difference = found.simulated
    head = ("", compared(difference) if difference else "")
    lines = measures(found, DIFFERENCE, [("simulated",)], [difference.why]) if difference else ()
    lead = "Secondary: a chat model played the person, so the arms did not meet the same words."
    return Table("simulated", "Free talks", head, lines, lead)


def losses(found: Comparison) -> Table:
    asked = [one for one in DIFFERENCE if one.label not in ("Relative", "Left out")]
    lines = _differences(found, "loss", found.loss, asked)
    head = ("", *map(compared, found.loss))
    return Table("loss", "Differences in loss", head, lines, how=HOW["loss"])


def pass_rates(found: Comparison) -> Table:
    columns = [("pass_rates", number) for number in range(len(found.pass_rates))]
    lines = measures(found, RATES, columns, [unjudged(found)] * len(columns))
    head = ("", *(f"{rates.after} - {rates.before}" for rates in found.pass_rates))
    return Table("pass_rates", "Pass rates, paired", head, lines, how=HOW["pass"])


def thresholds(found: Comparison) -> Table:
    arms = _arms(found)
    lines = tuple(
        Line(
            cell(found, two_digits, "thresholds", number, "threshold"),
            tuple(_share_of(found, arm, "thresholds", number, "arms") for arm in arms),
        )
        for number in range(len(found.thresholds))
    )
    lead = "How many would pass were the threshold another: a finding should not hang on it."
    return Table("thresholds", "Were the threshold another", ("threshold", *arms), lines, lead)


def _share_of(found: Comparison, arm: str, *path: str | int) -> Cell:
    return share(found, *path, arm) if arm in look(found, *path) else said("")


GROUP_HEAD = (
    "pairs",
    "before",
    "after",
    "difference",
    "95 % interval",
    "p (t)",
    "p (Holm)",
    "d_z",
)


def _group(found: Comparison, place: str, number: int, row: GroupRow) -> Line:
    path = (place, number, "difference")
    why = row.difference.why or unjudged(found)

    def one(show: Show, field: str) -> Cell:
        return cell(found, show, *path, field, why=why)

    cells = (
        one(count, "n"),
        one(score, "mean_before"),
        one(score, "mean_after"),
        one(signed, "difference"),
        interval(found, signed, (*path, "low"), (*path, "high"), why),
        one(probability, "p_t"),
        one(probability, "p_holm"),
        one(two_digits, "d_z"),
    )
    return Line(cell(found, words, place, number, "name"), cells)


def _groups(found: Comparison, place: str, title: str, first: str, lead: str) -> Table:
    rows: Sequence[GroupRow] = getattr(found, place)
    lines = tuple(_group(found, place, number, row) for number, row in enumerate(rows))
    pairs = dict.fromkeys(compared(row.difference) for row in rows)
    lead = f"{' and '.join(pairs)}. {lead}" if pairs else lead
    return Table(place, title, (first, *GROUP_HEAD), lines, lead, HOW["holm"])


def categories(found: Comparison) -> Table:
    lead = "The six categories of the rubric, each as a score of its own."
    return _groups(found, "categories", "By category", "category", lead)


def topics(found: Comparison) -> Table:
    lead = "What the person came with."
    return _groups(found, "topics", "By topic", "topic", lead)


def probes(found: Comparison) -> Table:
    lead = "The share of what a probe asks for, and forbids, that held."
    return _groups(found, "probes", "Scripted probes, by family", "family", lead)


def criteria(found: Comparison) -> Table:
    arms = _arms(found)
    lines = tuple(_criterion(found, number, arms) for number in range(len(found.criteria)))
    head = ("criterion", *arms, "difference, points", "p (McNemar)", "p (Holm)")
    lead = "The share of yes, of those that were answered."
    how = f"{HOW['exploratory']} {HOW['holm']}"
    return Table("criteria", "By criterion (exploratory)", head, lines, lead, how)


def _criterion(found: Comparison, number: int, arms: Sequence[str]) -> Line:
    row, path = found.criteria[number], ("criteria", number)
    why = unjudged(found)
    label = said(f"{row.criterion} {row.name}{' (advisory)' if row.advisory else ''}")
    cells = (
        *(_share_of(found, arm, *path, "arms") for arm in arms),
        estimate(found, bare(points), *path, "rates", "difference", why=why),
        cell(found, probability, *path, "rates", "p_mcnemar", why=why),
        cell(found, probability, *path, "p_holm", why=why),
    )
    return Line(label, cells, row.category)


def style(found: Comparison) -> Table:
    columns = [("style", arm) for arm in found.style]
    whys = ["too few such replies"] * len(columns)
    lines = measures(found, STYLE, columns, whys)
    return Table("style", "How they speak", ("", *found.style), lines, how=HOW["style"])


def depth(found: Comparison) -> Table:
    arms = _arms(found)
    lines = tuple(
        Line(
            cell(found, words, "depth", number, "turns"),
            tuple(_share_of(found, arm, "depth", number, "arms") for arm in arms),
        )
        for number in range(len(found.depth))
    )
    lead = "Replies with a hard finding, by how deep in the talk they stand."
    return Table("depth", "By depth of the talk", ("turns", *arms), lines, lead)


# --- people, and the judge's own choice

PREFERRED = (
    Measure("Pairs", "of replies, shown both ways round", ("pairs",), count),
    Measure("After won", "the judge chose the second arm", ("after_won",), count),
    Measure("Before won", "the judge chose the first arm", ("before_won",), count),
    Measure("Ties", "neither", ("ties",), count),
    Measure("Inconsistent", "ties as the choice moved with place", ("inconsistent",), count),
    Measure("Win rate", "of after; ties half", ("win_rate",), percent),
    Measure("p", "could it be chance?", ("p",), probability),
)
PEOPLE = (
    Measure("Pairs", "shown blind", ("pairs",), count),
    Measure("Preferred after", "the person chose the second arm", ("preferred_after",), count),
    Measure("Preferred before", "the person chose the first arm", ("preferred_before",), count),
    Measure("Ties", "neither", ("ties",), count),
    Measure("Compared", "pairs the judge has an opinion on too", ("compared",), count),
    Measure("Agreed", "person and judge", ("agreed",), percent),
    Measure("Kappa", "agreement beyond chance", ("kappa",), two_digits),
)


def preferred(found: Comparison) -> Table:
    one = found.preferred
    lines = measures(found, PREFERRED, [("preferred",)], [""]) if one else ()
    head = ("", f"{one.after} against {one.before}" if one else "")
    return Table("preferred", "One against the other, by the judge", head, lines)


def people(found: Comparison) -> Table:
    columns = [("people", number) for number in range(len(found.people))]
    lines = measures(found, PEOPLE, columns, ["too few pairs"] * len(columns))
    head = ("", *(one.person for one in found.people))
    return Table("people", "A person's choices", head, lines, how=HOW["people"])


# --- every scenario


def rows(found: Comparison) -> Table:
    arms = _arms(found)
    has = [one for one in ("scores", "losses") if any(map(_any_value, _column(found, one)))]
    names = {"scores": "score", "losses": "loss"}
    head = [f"{names[one]}, {arm}" for one in has for arm in arms]
    head += [f"{field}, {arm}" for field in ("safe", "words") for arm in arms]
    lines = tuple(_row(found, number, [*has, "safe", "words"]) for number in range(len(found.rows)))
    first = ("scenario", "kind", "group", "turns")
    return Table("rows", "Every scenario", (*first, *head), lines)


def _column(found: Comparison, field: str) -> list[dict[str, float | None]]:
    return [getattr(row, field) for row in found.rows]


def _any_value(values: dict[str, float | None]) -> bool:
    return any(value is not None for value in values.values())


SHOWN = {"scores": score, "losses": score, "safe": yes_no, "words": one_digit}


def _row(found: Comparison, number: int, fields: Sequence[str]) -> Line:
    row, path = found.rows[number], ("rows", number)
    cells = [cell(found, words, *path, "kind"), cell(found, words, *path, "group")]
    cells.append(cell(found, count, *path, "turns"))
    for field in fields:
        values = getattr(row, field)
        for arm in found.arms:
            there = arm in values
            cells.append(
                cell(found, SHOWN[field], *path, field, arm, why="not judged, or not asked")
                if there
                else said("")
            )
    return Line(cell(found, words, *path, "scenario"), tuple(cells))
