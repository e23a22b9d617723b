"""A pilot of base models: they answer the same words, somebody may judge, and they are ranked.

Reads eval_holdout.jsonl, config/probes.yaml and the models; reads and writes output/selection/
(replies, losses, judgements), a line each as it comes. A killed pilot goes on: nothing is generated
twice, and nothing is paid for twice. Nothing leaves this machine but what a hosted judge is given.
Fails: ToolError where a model is missing or none of them could answer, ConfigError where somebody's
own words would leave without leave.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from coach_mlx import arms, crisis, gpu, mlx_runtime, quote
from coach_mlx.base_models import Candidate
from coach_mlx.base_pilot_answers import PilotAnswers, as_evaluation, losses_of, read_pilot_material
from coach_mlx.base_pilot_models import find_models
from coach_mlx.base_ranking import Answered, Ranking, rank
from coach_mlx.base_rationale import Pilot
from coach_mlx.config import Config
from coach_mlx.errors import ConfigError, ToolError
from coach_mlx.evidence import Evidence, look
from coach_mlx.judgements import REPLY_WORDS, Panel
from coach_mlx.judging import require_leave, say_who_judges, writers_of
from coach_mlx.material import Material, longest_reply
from coach_mlx.rubric import RUBRIC, load_rubric
from coach_mlx.workspace import Workspace


def run(
    names: Sequence[str],
    candidates: Sequence[Candidate],
    config: Config,
    workspace: Workspace,
    may_download: bool = False,
    judge_is_named: bool = False,
) -> Pilot:
    mlx_runtime.prepare()
    settings = as_evaluation(config)
    material = read_pilot_material(config, workspace)
    panel = _panel(settings, workspace, material, judge_is_named)
    models = find_models(names, candidates, settings, workspace, material.decoding, may_download)
    arms.require_different([one.source for one in models])
    if panel is not None:
        panel.require()
    answers = PilotAnswers(settings, workspace, material, models)
    with gpu.stay_awake():
        answers.generate()
    if len(answers.failures) == len(models):
        raise ToolError("\n".join(["None of them could answer:", *answers.failures.values()]))
    if panel is not None:
        panel.say_price(answers.all_told)
        panel.run(answers.all_told)
    evidence = _evidence(settings, workspace, answers, panel)
    ranking = rank(evidence, _answered(answers), answers.failures)
    return _pilot(config, material, panel, ranking)


def show_quote(names: Sequence[str], config: Config, workspace: Workspace) -> dict[str, Any]:
    """What judging would cost; nothing is generated, and nothing is sent."""
    if config.select.judge is None:
        raise ConfigError("Nobody judges, so it costs nothing. Type: --judge provider/name")
    material = read_pilot_material(config, workspace)
    panel = Panel(as_evaluation(config), workspace, folder=workspace.selection, books="select")
    found = panel.quote(material.scripts, len(dict.fromkeys(names)), REPLY_WORDS)
    return quote.show({"judging": found}, config.calls.budget_usd)


def _panel(settings: Config, workspace: Workspace, material: Material, named: bool) -> Panel | None:
    """Raises: ConfigError where somebody's own words would leave without leave."""
    if settings.evaluate.judge is None:
        return None
    panel = Panel(settings, workspace, folder=workspace.selection, books="select")
    least = panel.judge.rubric.min_turns
    if settings.select.turns < least:
        raise ConfigError(
            f"select.turns is {settings.select.turns}, and a judge reads nothing of fewer than "
            f"{least} turns. Type: --set select.turns={least}"
        )
    require_leave(panel.judge, panel.prices, material.private, named)
    say_who_judges(panel.judge, writers_of(material.conversations))
    return panel


def _evidence(
    settings: Config, workspace: Workspace, answers: PilotAnswers, panel: Panel | None
) -> Evidence:
    known = crisis.load_known(settings, workspace)
    told = answers.all_told
    judged = panel.read(told) if panel else {}
    whole = longest_reply(settings) >= settings.serve.max_reply_tokens
    keys = {(one.arm, one.script.id, one.repeat): one for one in told}
    return Evidence(
        scripts=tuple(answers.material.scripts),
        arms=tuple(one.source.name for one in answers.models),
        seen={key: look(one, judged.get(key), known, whole) for key, one in keys.items()},
        losses=losses_of(answers),
        rubric=load_rubric(workspace.find(RUBRIC)),
        settings=settings.evaluate,
        passport=None,
        seed=settings.seed,
    )


def _answered(answers: PilotAnswers) -> dict[str, Answered]:
    return {
        one.source.name: Answered(
            one.source.meaning, one.source.digest, one.source.served_by, answers.replies_of(one)
        )
        for one in answers.models
    }


def _pilot(config: Config, material: Material, panel: Panel | None, ranking: Ranking) -> Pilot:
    words = "Nobody judged the replies."
    if panel is not None:
        words = f"Judged by {panel.judge.model}, {panel.judge.settings.votes} votes a criterion."
    return Pilot(
        made=now(),
        machine=mlx_runtime.machine(),
        scenarios={
            "held-out": len(material.of_kind("holdout")),
            "safety": len(material.of_kind("probe")),
        },
        turns=config.select.turns,
        decoding=material.decoding.words,
        judge=panel.judge.model if panel else None,
        judge_words=words,
        ranking=ranking,
    )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
