"""The report: the same facts three times, and whatever a model wrote is only text."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import comparisons
import pytest

from coach_mlx import plots, report, report_cells, report_markdown, report_talks, report_text
from coach_mlx.comparison import Comparison

HOSTILE = comparisons.HOSTILE


class Written(NamedTuple):
    found: Comparison
    facts: dict[str, Any]
    text: str
    page: str
    parsed: "Page"


class Page(HTMLParser):
    """What a browser would see of it, without one."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.values: list[tuple[str, Any, str]] = []
        self._open: tuple[str, Any] | None = None
        self._text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.tags.append((tag, named))
        self.ids += [value for key, value in attributes if key == "id" and value]
        if "data-key" in named:
            self._open = (named["data-key"] or "", json.loads(named["data-value"] or ""))
            self._text = ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if self._open:
            self.values.append((*self._open, self._text))
            self._open = None


@pytest.fixture(scope="module", params=["judged", "unjudged"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(comparisons.make(judged=request.param == "judged"), tmp_path_factory)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(comparisons.make(), tmp_path_factory)


def write(found: Comparison, folders: pytest.TempPathFactory) -> Written:
    folder = folders.mktemp("reports")
    report.write_comparison(found, comparisons.metrics(), folder)
    facts, text, page = (
        (folder / f"comparison_report.{kind}").read_text(encoding="utf-8")
        for kind in ("json", "md", "html")
    )
    return Written(found, json.loads(facts), text, page, Page(page))


def at(facts: Any, key: str) -> Any:
    """What stands in the JSON under `score.0.difference`."""
    for step in key.split("."):
        facts = facts[int(step)] if isinstance(facts, list) else facts[step]
    return facts


def headlines(found: Comparison) -> Iterator[str]:
    """The numbers that nobody may have to look for."""
    for one in (*found.score, *found.loss):
        if one.difference is None or one.low is None or one.high is None:
            continue
        yield f"{one.difference:+.3f}"
        yield f"{one.low:+.3f} to {one.high:+.3f}"
        yield f"{one.mean_before:.3f}"
        yield f"{one.d_z:.2f}"
        yield f"{one.superiority:.1%}"
    for scores in found.scores.values():
        if scores.mean_score is not None:
            yield f"{scores.mean_score:.3f}"
            yield f"{scores.passed.found} of {scores.passed.n} ({scores.passed.share:.1%})"
    for arm in found.safety.arms.values():
        yield f"{arm.failed.found} of {arm.failed.n} ({arm.failed.share:.1%})"
        yield f"{arm.upper:.1%}"
    yield from (f"{one.words_median:.1f}" for one in found.style.values())


# --- the same facts


def test_the_json_is_the_record(written: Written) -> None:
    assert Comparison.model_validate_json(json.dumps(written.facts)) == written.found


def test_every_headline_is_in_all_three(written: Written) -> None:
    shown = " ".join(text for text in re.sub(r"<[^>]*>", "", written.page).split())
    for number in headlines(written.found):
        assert number in written.text, number
        assert number in shown, number


def test_every_number_of_the_page_is_that_of_the_json(written: Written) -> None:
    assert len(written.parsed.values) > 300
    for key, value, text in written.parsed.values:
        assert value == at(written.facts, key), key
        assert text.strip(), key
        assert (text == "—") == (value is None), key


@pytest.mark.parametrize(
    "key",
    [
        "score.0.difference",
        "score.0.p_sign_flip",
        "score.0.worst",
        "scores.gguf.corrected.value",
        "pass_rates.0.p_mcnemar",
        "safety.newly_upper",
        "safety.least_scenarios",
        "criteria.3.rates.difference.low",
        "categories.0.difference.p_holm",
        "style.gguf.short_p90",
        "depth.1.arms.base.found",
        "thresholds.2.arms.gguf.share",
        "people.0.kappa.value",
        "preferred.win_rate.high",
        "costs.usd",
        "rows.7.losses.gguf",
        "parity.1.ok",
        "decision.word",
    ],
)
def test_the_page_shows(judged: Written, key: str) -> None:
    assert key in {key for key, _, _ in judged.parsed.values}


def test_the_decision_comes_first(written: Written) -> None:
    reason = written.found.decision.reason
    lines = written.text.splitlines()
    assert lines[2].startswith("**Deploy.**")
    assert reason[1:] in lines[4]
    assert written.page.index(reason[1:]) < written.page.index('id="main"')
    for one in (*written.found.decision.reasons, *written.found.decision.unsaid):
        assert one in written.text


def test_the_text_ends_with_the_command(written: Written) -> None:
    assert written.text.endswith(f"```\n{written.found.deploy_command}\n```\n")


def test_both_say_what_it_cannot_say(written: Written) -> None:
    for text in (written.text, written.page):
        assert "says nothing about whether it helps people" in " ".join(text.split())


def test_the_words_are_no_therapists() -> None:
    folder = Path(report.__file__).parent
    for path in (*folder.glob("report*"), folder / "plots.py"):
        text = path.read_text(encoding="utf-8").lower()
        assert not re.search(r"therap|\btreat|diagnos", text), path


def test_without_a_judge_it_says_why(tmp_path_factory: pytest.TempPathFactory) -> None:
    done = write(comparisons.make(judged=False, word="inconclusive"), tmp_path_factory)
    assert done.facts["score"][0]["difference"] is None
    assert f"There are no scores: {comparisons.SEEN}." in done.text
    assert "### Scores by arm" not in done.text
    assert "There are no scores" in done.page
    for key in ("differences-score", "scores", "categories", "criteria"):
        assert re.search(f'data-plot="{key}".*?Left out: {comparisons.SEEN}', done.page, re.S)
    for key in ("differences-loss", "words", "depth", "curve"):
        assert re.search(f'data-plot="{key}"[^§]*?<svg', done.page)
    assert "about <strong" in done.page


def test_every_decision_has_a_word_a_shape_and_a_colour() -> None:
    shapes = set()
    for word, meaning in report_text.MEANING.items():
        found = comparisons.make(word=word, scenarios=12)
        page = report.page(found, [])
        tone = word.lower().replace(" ", "-")
        assert f'<body class="is-{tone}">' in page
        assert f".is-{tone} {{ --tone" in page
        assert f">{meaning.title}</h2>" in page
        assert f"**{meaning.title}.**" in report_markdown.markdown(found)
        assert ("advises against" in page) == (word == "unsafe")
        shapes |= set(re.findall(r'<svg class="icon".*?</svg>', page, re.S))
    assert len(shapes) == len(report_text.MEANING)


def test_a_report_of_almost_nothing_is_one() -> None:
    whole = comparisons.make(judged=False, word="inconclusive", scenarios=12)
    lists = (
        *("score", "loss", "pass_rates", "thresholds", "categories", "criteria", "topics"),
        *("probes", "depth", "rows", "transcripts", "parity", "lineage"),
    )
    empty: dict[str, Any] = dict.fromkeys(lists, ())
    safety = whole.safety.model_copy(update={"findings": (), "arms": {}})
    bare = whole.model_copy(update={**empty, "scores": {}, "style": {}, "safety": safety})
    page, text = report.page(bare, []), report_markdown.markdown(bare)
    assert "No conversation was kept." in page
    assert "No finding" in page
    assert "| Difference | |" not in text
    assert text.endswith(f"```\n{whole.deploy_command}\n```\n")


# --- only text


def test_what_a_model_wrote_is_only_text(judged: Written) -> None:
    texts = "".join(re.findall(r"data-text>(.*?)</p>", judged.page, re.S))
    assert "&lt;/script&gt;&lt;script&gt;window.broken=1" in texts
    assert "<img" not in judged.page
    assert judged.page.count("<script>") == 1
    assert judged.page.count("</script>") == 1
    assert "{{ 7*7 }}" in judged.page
    assert "{% raw %}" in judged.page
    assert not [tag for tag, named in judged.parsed.tags if any(key[:2] == "on" for key in named)]
    assert "<i>Too many</i>" not in judged.page
    assert "<script>" not in judged.text
    assert "&lt;script>" in judged.text


def test_a_table_of_the_text_keeps_its_columns(written: Written) -> None:
    columns = 0
    for line in written.text.splitlines():
        if not line.startswith("| "):
            columns = 0
            continue
        here = len(re.findall(r"(?<!\\)\|", line))
        assert columns in (0, here), line
        columns = here
    assert r"tokens \| text" in written.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b\nc", r"a \| b c"),
        ("<b>x</b> & y", "&lt;b>x&lt;/b> &amp; y"),
        ("`x` **y** [z](w)", r"\`x\` \*\*y\*\* \[z\](w)"),
        ("# no heading", r"\# no heading"),
        ("- no list", r"\- no list"),
        ("-0.034 to +0.2", "-0.034 to +0.2"),
        ("self_worth _x_", r"self_worth \_x\_"),
    ],
)
def test_markdown_is_escaped(text: str, shown: str) -> None:
    assert report_markdown.escaped(text) == shown


def test_the_page_asks_for_nothing(written: Written) -> None:
    for tag, named in written.parsed.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form", "use-"), tag
        assert not {"src", "srcset", "action", "data", "poster"} & set(named), tag
        for key in ("href", "xlink:href"):
            assert (named.get(key) or "#").startswith("#"), named
    for outside in ("://", "@import", "url(http", "xmlns"):
        assert outside not in written.page
    policy = next(
        named["content"] or ""
        for tag, named in written.parsed.tags
        if tag == "meta" and named.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")


def test_links_lead_somewhere_and_ids_are_unique(written: Written) -> None:
    ids = written.parsed.ids
    assert len(ids) == len(set(ids))
    for _, named in written.parsed.tags:
        for key in ("href", "xlink:href"):
            if named.get(key):
                assert (named[key] or "")[1:] in ids, named
    for one in re.findall(r"url\(#([^)]*)\)", written.page):
        assert one in ids


# --- pictures


def test_every_picture_is_named_and_fits_a_dark_page(judged: Written) -> None:
    made = plots.plots(judged.found, comparisons.metrics())
    assert all(plot.svg for plot in made.values())
    for plot in made.values():
        assert f"<title>{plot.title}</title><desc>" in plot.svg
        assert "<text" in plot.svg
        assert "currentColor" in plot.svg or "var(--muted)" in plot.svg
        assert not re.search(r"(?:fill|stroke): #(?!none)", plot.svg), plot.key
        assert "<style" not in plot.svg


def test_pictures_of_nothing_say_why() -> None:
    made = plots.plots(comparisons.make(judged=False), [])
    assert made["curve"] == plots.Plot(
        "curve", "Loss while training", "", why="there are no metrics of the training"
    )
    assert made["criteria"].why == comparisons.SEEN


def test_the_loss_is_plotted_whole_or_not(tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    report.plot_loss(comparisons.metrics(), path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert [one.name for one in tmp_path.iterdir()] == ["loss.png"]


# --- conversations


def test_turns_stand_side_by_side(judged: Written) -> None:
    talk = report_talks.talks(judged.found)[1]
    assert talk.turns[0].person is not None
    assert talk.turns[0].person.startswith("A zebra")
    assert [reply.arm for reply in talk.turns[0].replies] == ["base", "adapter", "gguf"]
    assert all(reply.person is None for reply in talk.turns[0].replies)


def test_a_person_who_answers_differently_is_shown_to_each(judged: Written) -> None:
    one = judged.found.transcripts[0]
    base = one.arms["base"]
    arms = {
        **one.arms,
        "base": (base[0], base[1], base[2].model_copy(update={"content": "Else."}), base[3]),
    }
    found = judged.found.model_copy(
        update={"transcripts": (one.model_copy(update={"arms": arms}),)}
    )
    second, third = report_talks.talks(found)[0].turns[1:3]
    assert second.person is None
    assert second.replies[0].person == "Else."
    assert third.replies[0].text is None


def test_the_text_tells_the_worst_and_the_best(judged: Written) -> None:
    shown = report_talks.talks(judged.found)
    gains = sorted(talk.gain for talk in shown if talk.gain is not None)
    told = [talk.gain for talk in report_talks.telling(shown, 2)]
    assert told == [*gains[:2], *reversed(gains[-2:])]
    assert "regressed" not in {one for talk in shown if talk.gain is None for one in talk.outcome}


# --- numbers


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (report_cells.probability, 0.00021, "below 0.001"),
        (report_cells.probability, 0.0386, "0.039"),
        (report_cells.points, -0.0125, "-1.2 points"),
        (report_cells.percent, 0.0294, "2.9%"),
        (report_cells.duration, 95, "95 s"),
        (report_cells.duration, 1880, "31 min"),
        (report_cells.duration, 9000, "2.5 h"),
        (report_cells.count, 3120400, "3,120,400"),
    ],
)
def test_numbers_are_shown(show: report_cells.Show, value: float, text: str) -> None:
    assert show(value) == text
