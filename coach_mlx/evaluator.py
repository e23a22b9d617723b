"""`coach evaluate`: is the coach better than its base, is it safe, and how sure is that.

Reads: eval_holdout.jsonl, config/probes.yaml, the rubric, and the models compared (`arms`).
Writes: reports/NAME/plan.json before the first reply; output/evaluation/ (replies, losses and
judgements, a line each as it comes, so a killed run goes on and pays for nothing twice); and
comparison_report.json, .md and .html. Every arm answers the same words in its own history, decoded
the same way. Without `evaluate.judge` nothing leaves this machine, and nothing is called better or
safe.
Fails: DataError where two arms are the same, a plan or a reply was changed, or the rules are others
than were fixed; exit 10 for every word but deploy.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

from coach_mlx import arms, console, crisis, evaluation_plan, gpu, mlx_runtime, quote, report
from coach_mlx.answers import Answers
from coach_mlx.arms import ArmSource
from coach_mlx.calls import split_name
from coach_mlx.comparison import ArmFacts, Comparison, Costs, Lineage, Preferred, SideBySide
from coach_mlx.config import Config
from coach_mlx.decision import Findings, decide, explain
from coach_mlx.documents import read_document
from coach_mlx.errors import ConfigError
from coach_mlx.evaluation_plan import EvaluationPlan
from coach_mlx.evidence import Evidence, look
from coach_mlx.judgements import REPLY_WORDS, Panel, filler
from coach_mlx.judging import require_leave, say_who_judges, writers_of
from coach_mlx.material import Material, longest_reply, read_material
from coach_mlx.measures import measure
from coach_mlx.pairwise import choose, planned
from coach_mlx.passport import Standing, look_up
from coach_mlx.people import SpotCheck, agreements, flags, read_checks
from coach_mlx.preferences import write_pairs
from coach_mlx.probes import PROBES
from coach_mlx.rubric import RUBRIC, load_rubric
from coach_mlx.safety import measure_safety
from coach_mlx.simulated import quote_clients
from coach_mlx.taxonomy import TAXONOMY, Taxonomy
from coach_mlx.workspace import Plan, Workspace, read_jsonl


class Options(NamedTuple):
    new_plan: bool = False
    """Other rules for models whose replies were seen, and the report says so."""
    named: bool = False
    """The judge was named on the command line."""


EVERYTHING = Options()


def plan(config: Config, workspace: Workspace) -> Plan:
    settings = config.evaluate
    inputs = [
        workspace.holdout,
        workspace.find(PROBES),
        workspace.find(RUBRIC),
        workspace.find(config.dataset.system_prompt),
    ]
    if settings.base is None:
        inputs += [workspace.base_marker, workspace.adapter_weights, workspace.metrics]
    if settings.served is None:
        inputs += [workspace.gguf, workspace.parity]
    if workspace.spot_checks.is_file():
        inputs.append(workspace.spot_checks)
    kinds = ("json", "md", "html")
    reports = tuple(workspace.reports / f"comparison_report.{kind}" for kind in kinds)
    facts = {
        "seed": config.seed,
        "modelfile": workspace.shown(workspace.modelfile),
        "max_reply_tokens": longest_reply(config),
        "judge_known": _judge_known(config, workspace),
    }
    return Plan(tuple(inputs), reports, {**facts, **settings.model_dump()})


def preflight(config: Config, workspace: Workspace) -> None:
    """Say before the training what is wrong with the judge's name. Raises: ConfigError."""
    if config.evaluate.judge is not None:
        split_name(config.evaluate.judge)


def _judge_known(config: Config, workspace: Workspace) -> str | None:
    if config.evaluate.judge is None:
        return None
    return look_up(workspace, Panel(config, workspace, files_only=True).judge).say()


# --- what is compared


def _facts(
    config: Config, material: Material, sources: Sequence[ArmSource], panel: Panel | None
) -> dict[str, Any]:
    """What the plan fixes."""
    settings = config.evaluate
    scripts = {}
    for name, kind in (("holdout", "holdout"), ("probes", "probe")):
        those = material.of_kind(kind)
        scripts[name] = {
            "n": len(those),
            "turns": sum(len(one.says) for one in those),
            "hash": evaluation_plan.digest_of(those),
        }
    return {
        "arms": {one.name: one.digest for one in sources},
        "scripts": scripts,
        "decoding": material.decoding.model_dump(),
        "loss": {
            "max_seq_length": settings.max_seq_length,
            "context_turns": settings.context_turns,
        },
        "repeats": settings.repeats,
        "judge": panel.judge.facts if panel else None,
        "pairwise": settings.pairwise,
        "client": settings.client and {"client": settings.client, "talks": settings.talks},
        "metrics": {
            "primary": f"rubric score, {sources[-1].name} - {sources[0].name}, held-out scenarios",
            "test": f"paired t, two-sided, p < {settings.p_value:g}",
            "safety": "hard detectors, CQ8 and CQ9: newly unsafe scenarios, exact bound",
        },
        "margins": {"improvement": settings.min_improvement, "safety": settings.safety_margin},
        "seed": config.seed,
        "resamples": settings.resamples,
    }


# --- the stage


def run(config: Config, workspace: Workspace, options: Options = EVERYTHING) -> dict[str, Any]:
    material = read_material(config, workspace)
    sources = arms.find_arms(config, workspace, material.decoding)
    arms.require_different(sources)
    panel = Panel(config, workspace) if config.evaluate.judge else None
    if panel is not None:
        require_leave(panel.judge, panel.prices, material.private, options.named)
        say_who_judges(panel.judge, writers_of(material.conversations))
        panel.require()
    answers = Answers(config, workspace, material, sources)
    facts = _facts(config, material, sources, panel)
    fixed = evaluation_plan.fix(workspace.reports, facts, answers.any_seen(), options.new_plan)
    with gpu.stay_awake():
        answers.generate()
    evaluation = Evaluation(config, workspace, answers, panel)
    if panel is not None:
        panel.say_price(answers.told)
        panel.run(answers.told)
    found = evaluation.compare(fixed)
    metrics = read_jsonl(workspace.metrics) if workspace.metrics.is_file() else []
    report.write_comparison(found, metrics, workspace.reports)
    _say(found)
    return {
        "verdict": found.decision.word,
        "passed": found.decision.passed,
        "reason": found.decision.reason,
        "plan": found.plan,
        "scenarios": found.scenarios,
        "report": found.report,
    }


def show_quote(config: Config, workspace: Workspace) -> dict[str, Any]:
    """What the judging would cost; nothing is generated, and nothing is sent."""
    if config.evaluate.judge is None:
        raise ConfigError("Nobody judges, so it costs nothing. Type: --judge provider/name")
    material = read_material(config, workspace)
    panel = Panel(config, workspace)
    names = 2 if config.evaluate.base else 3
    talks = names * config.evaluate.repeats
    found = {"judging": panel.quote(material.scripts, talks, REPLY_WORDS)}
    if config.evaluate.pairwise:
        found["choosing"] = _quote_choices(material, panel)
    if material.free:
        found["clients"] = quote_clients(material.free, names, config, workspace)
    return quote.show(found, config.calls.budget_usd)


def _quote_choices(material: Material, panel: Panel) -> quote.Quote:
    scripts = material.of_kind("holdout")
    talks = [
        SideBySide(
            scenario=one.id,
            kind=one.kind,
            group=one.group,
            benign=one.benign,
            arms={
                arm: tuple(filler(one, REPLY_WORDS + place))
                for place, arm in enumerate(("base", "served"))
            },
            verdicts={},
            findings={},
        )
        for one in scripts
    ]
    calls = [[one] for one in planned(talks, "base", "served", panel.judge)]
    return panel.lay_out(calls, 2 * sum(len(one.says) for one in scripts))


class Evaluation:
    """One evaluation, from the answers to the report."""

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        answers: Answers,
        panel: Panel | None,
    ) -> None:
        self.config, self.workspace = config, workspace
        self.answers, self.panel = answers, panel
        self.material, self.sources = answers.material, answers.sources

    # --- what it says

    def compare(self, fixed: EvaluationPlan) -> Comparison:
        standing = look_up(self.workspace, self.panel.judge) if self.panel else None
        evidence = self._evidence(standing)
        numbers = measure(evidence)
        said = flags(self.checks, self._digests, numbers["transcripts"])
        safety = measure_safety(replace(evidence, flags=said))
        findings = Findings(
            score=numbers["score"][0],
            loss=numbers["loss"][0],
            safety=safety,
            judged=evidence.is_judged,
            why_not_safe=standing.why_not_safe() if standing else "nobody judged",
            served=evidence.served,
            settings=self.config.evaluate,
        )
        word, reason = decide(findings)
        preferred = self._preferred(numbers["transcripts"], evidence)
        decision = explain(
            word,
            reason,
            findings,
            numbers["criteria"],
            numbers["topics"],
            numbers["transcripts"],
            self._topic_shares(),
            self.config.name,
        )
        if word == "try DPO":
            self._write_pairs(numbers["transcripts"], evidence)
        return Comparison(
            decision=decision,
            safety=safety,
            preferred=preferred,
            people=agreements(
                self.checks,
                numbers["transcripts"],
                evidence.base,
                evidence.served,
                self._digests,
            ),
            **numbers,
            **self._facts_of_report(fixed, standing),
        )

    def _preferred(self, transcripts: Sequence[SideBySide], evidence: Evidence) -> Preferred | None:
        if self.panel is None or not self.config.evaluate.pairwise:
            return None
        judge, arms = self.panel.judge, (evidence.base, evidence.served)
        return choose(transcripts, *arms, judge, self.config, self.workspace)

    def _write_pairs(self, transcripts: Sequence[SideBySide], evidence: Evidence) -> None:
        system, path = self.material.system, self.workspace.preference_pairs
        count = write_pairs(transcripts, evidence.base, evidence.served, system, path)
        console.say(f"{self.workspace.shown(path)}: {count} pairs.")

    def _evidence(self, standing: Standing | None) -> Evidence:
        known = crisis.load_known(self.config, self.workspace)
        judged = self.panel.read(self.answers.told) if self.panel else {}
        whole = self.material.decoding.max_tokens >= self.config.serve.max_reply_tokens
        keys = {one: (one.arm, one.script.id, one.repeat) for one in self.answers.told}
        free = {
            one.script.id: one.script for one in self.answers.told if one.script.kind == "simulated"
        }
        return Evidence(
            scripts=(*self.material.scripts, *free.values()),
            arms=tuple(one.name for one in self.sources),
            seen={key: look(one, judged.get(key), known, whole) for one, key in keys.items()},
            losses={
                (source.name, one.id): loss
                for source in self.sources
                for one in self.material.conversations
                if (loss := self.answers.loss(source, one)) is not None
            },
            rubric=load_rubric(self.workspace.find(RUBRIC)),
            settings=self.config.evaluate,
            passport=standing.passport if standing else None,
            seed=self.config.seed,
        )

    @cached_property
    def checks(self) -> list[SpotCheck]:
        return read_checks(self.workspace)

    @property
    def _digests(self) -> dict[str, str]:
        """Of the two arms that people choose between."""
        return {one.name: one.digest for one in (self.sources[0], self.sources[-1])}

    def _topic_shares(self) -> dict[str, float]:
        taxonomy = read_document(self.workspace.find(TAXONOMY), Taxonomy)
        return {topic.name: topic.weight for topic in taxonomy.topics}

    def _facts_of_report(self, fixed: EvaluationPlan, standing: Standing | None) -> dict[str, Any]:
        workspace, scripts = self.workspace, self.material.scripts
        kinds = ("holdout", "probe")
        return {
            "name": self.config.name,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": mlx_runtime.machine(),
            "plan": fixed.plan,
            "plan_path": workspace.shown(workspace.reports / "plan.json"),
            "earlier_plans": evaluation_plan.earlier(workspace.reports, fixed),
            "scenarios": {kind: sum(one.kind == kind for one in scripts) for kind in kinds},
            "turns": sum(len(one.says) for one in scripts),
            "repeats": self.config.evaluate.repeats,
            "judge": self._judge_words(standing),
            "decoding": self.material.decoding.words,
            "detectable": fixed.detectable,
            "arms": {
                one.name: ArmFacts(meaning=one.meaning, digest=one.digest, served_by=one.served_by)
                for one in self.sources
            },
            "costs": self._costs(),
            "parity": _parity(workspace) if self.config.evaluate.served is None else (),
            "lineage": tuple(_lineage(workspace)),
            "deploy_command": _deploy_command(self.config, workspace),
            "report": workspace.shown(workspace.reports / "comparison_report.html"),
        }

    def _judge_words(self, standing: Standing | None) -> str:
        if self.panel is None or standing is None:
            return "Nobody judged the replies."
        settings = self.panel.judge.settings
        safety = settings.safety_votes or settings.votes
        return (
            f"{self.panel.judge.model}, {settings.votes} votes a criterion and {safety} on safety. "
            f"Its passport: {standing.say()}"
        )

    def _costs(self) -> Costs:
        calls, usd = self.panel.usd() if self.panel else (0, 0.0)
        own = {one.name: self.answers.replies_of(one) for one in self.sources}
        return Costs(
            judge=self.panel.judge.model if self.panel else None,
            calls=calls,
            usd=usd,
            seconds={arm: round(sum(one.seconds for one in its), 1) for arm, its in own.items()},
            tokens={arm: sum(one.tokens for one in its) for arm, its in own.items()},
        )


def _parity(workspace: Workspace) -> tuple[dict[str, Any], ...]:
    checks = json.loads(workspace.parity.read_text(encoding="utf-8"))["checks"]
    keys = ("ok", "name", "found", "wanted")
    return tuple({key: one[key] for key in keys} for one in checks)


def _deploy_command(config: Config, workspace: Workspace) -> str:
    modelfile = workspace.shown(workspace.modelfile)
    return f"ollama create {config.name} -f {modelfile} && ollama run {config.name}"


def _lineage(workspace: Workspace) -> list[Lineage]:
    """The chain from conversations to the served file: what each complete stage read and wrote, by
    hash.
    """
    names = ("dataset", "import", "train", "fuse", "export")
    manifests = [one for one in map(workspace.manifest, names) if one]
    return [
        Lineage(
            stage=one.stage,
            inputs={path: found.sha256[:12] for path, found in one.inputs.items()},
            outputs={path: found.sha256[:12] for path, found in one.outputs.items()},
        )
        for one in manifests
    ]


def _say(found: Comparison) -> None:
    """The decision, for who watched."""
    decision = found.decision
    console.say(f"{decision.word}: {decision.reason}.")
    for line in (*decision.reasons, *decision.todo):
        console.say(f"  {line.replace('`', '')}")
