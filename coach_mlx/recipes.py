"""What conversations are written from: prompts, approaches, models. One hash names them together.

Reads the prompt files named in the config; writes output/recipes/HASH.json, so that a conversation
can be traced to the words that made it. Fails: DataError where a prompt is missing or empty.
"""

import json
import re
from typing import Any, get_args

from coach_mlx.calls import split_name
from coach_mlx.config import Config
from coach_mlx.dialogue import Cast, Prompts
from coach_mlx.errors import ConfigError, DataError
from coach_mlx.records import Framework, content_hash
from coach_mlx.workspace import Workspace, read_prompt, write_whole


def load_prompts(config: Config, workspace: Workspace) -> Prompts:
    section = config.generate
    keys = ("coach_prompt", "client_prompt", "planner_prompt", "whole_prompt", "frameworks")
    coach, client, planner, whole, guide = (
        read_prompt(workspace.find(getattr(section, key)), f"generate.{key},") for key in keys
    )
    frameworks = split_frameworks(guide)
    missing = [name for name in get_args(Framework) if name not in frameworks]
    if missing:
        raise DataError(
            f"{section.frameworks} has no section for {', '.join(missing)}: a heading of two "
            "hashes and the approach's name."
        )
    return Prompts(coach, client, planner, whole, frameworks)


def split_frameworks(guide: str) -> dict[Framework, str]:
    """The sections of the guide by the names that cards use."""
    found: dict[Framework, str] = {}
    known = {str(name): name for name in get_args(Framework)}
    for section in re.split(r"^(?=## )", guide, flags=re.M):
        heading = section.splitlines()[0].removeprefix("## ") if section else ""
        name = re.sub(r"\s*\(.*\)", "", heading).strip().lower()
        name = re.sub(r"[ -]", "_", name)
        if name in known:
            found[known[name]] = section.strip()
    return found


def make_cast(config: Config, prompts: Prompts) -> Cast:
    """Who writes under this config. Raises: ConfigError for a name that is no chat model."""
    section = config.generate
    whole = section.mode == "whole"
    client = section.coach if whole else section.client
    planner = section.planner or client
    for model in (section.coach, client, planner, section.fallback_model or section.coach):
        split_name(model)
    if whole and section.planner:
        raise ConfigError("generate.planner is of no use with mode: whole; leave it out.")
    return Cast(client, section.coach, planner, prompts, section, recipe_hash(config, prompts))


def recipe_hash(config: Config, prompts: Prompts) -> str:
    """Twelve hex digits; who fills in for the others is not part of it, and neither is what only
    the other mode uses.
    """
    section = config.generate
    facts = section.model_dump(include={"mode", "coach", "temperature", "effort"})
    if section.mode == "turns":
        facts |= section.model_dump(include={"client", "planner", "max_reply_tokens"})
        texts: list[Any] = [prompts.coach, prompts.client, prompts.planner]
    else:
        texts = [prompts.coach, prompts.whole]
    return content_hash([facts, texts, sorted(prompts.frameworks.items())])[:12]


def keep(workspace: Workspace, cast: Cast) -> None:
    """Write the recipe down, once."""
    path = workspace.recipes / f"{cast.recipe}.json"
    if path.exists():
        return
    facts = {
        "recipe": cast.recipe,
        "mode": cast.settings.mode,
        "coach": cast.coach,
        "client": cast.client,
        "planner": cast.planner,
        "prompts": prompt_hashes(cast.prompts),
        "texts": {name: getattr(cast.prompts, name) for name in PROMPT_NAMES},
        "frameworks": cast.prompts.frameworks,
    }
    write_whole(path, json.dumps(facts, ensure_ascii=False, indent=2) + "\n")


PROMPT_NAMES = ("coach", "client", "planner", "whole")


def prompt_hashes(prompts: Prompts) -> dict[str, str]:
    hashes = {name: content_hash(getattr(prompts, name))[:12] for name in PROMPT_NAMES}
    return {**hashes, "frameworks": content_hash(sorted(prompts.frameworks.items()))[:12]}
