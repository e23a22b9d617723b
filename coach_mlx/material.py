"""What every arm of an evaluation is given: held-out conversations, probes, cards, and how to
answer.

Reads eval_holdout.jsonl, config/probes.yaml, the system prompt and, for the cards that training
lines leave out, the written conversations. Writes nothing. Fails: ToolError where nothing was held
out, DataError where it is one conversation.
"""

from typing import NamedTuple

from coach_mlx.arms import Decoding
from coach_mlx.config import Config
from coach_mlx.documents import read_document
from coach_mlx.errors import DataError, ToolError
from coach_mlx.probes import PROBES, Probes
from coach_mlx.records import Conversation
from coach_mlx.replay import Script, holdout_scripts, probe_scripts
from coach_mlx.simulated import Free, prepare
from coach_mlx.workspace import Workspace, read_conversations, read_system_prompt

LEAST_CONVERSATIONS = 2


class Material(NamedTuple):
    """What every arm is given, and who may read it."""

    conversations: list[Conversation]
    scripts: list[Script]
    private: int
    """Held-out conversations that may be somebody's own."""
    decoding: Decoding
    system: str
    free: Free | None
    """Free talks, where somebody plays the person."""

    def of_kind(self, kind: str) -> list[Script]:
        return [one for one in self.scripts if one.kind == kind]


def read_material(config: Config, workspace: Workspace) -> Material:
    if not workspace.holdout.is_file():
        raise ToolError(f"There is no {workspace.holdout}. Type: coach dataset")
    conversations = read_conversations(workspace.holdout)[: config.evaluate.holdout]
    if len(conversations) < LEAST_CONVERSATIONS:
        raise DataError(
            f"{workspace.holdout} holds one conversation: nothing can be said about a difference."
        )
    cards = _cards(config, workspace)
    probes = read_document(workspace.find(PROBES), Probes)
    system = read_system_prompt(workspace.find(config.dataset.system_prompt))
    scripts = holdout_scripts(conversations, cards)
    scripts += probe_scripts(probes, system, config.evaluate.probes)
    known = [cards.get(one.id, one) for one in conversations]
    decoding = Decoding(
        temperature=config.evaluate.temperature,
        max_tokens=longest_reply(config),
        seed=config.seed,
    )
    free = prepare(
        config, workspace, [one.scenario for one in known if one.scenario], system, decoding
    )
    private = sum(one.made is None for one in known)
    return Material(conversations, scripts, private, decoding, system, free)


def longest_reply(config: Config) -> int:
    """Tokens, of every arm."""
    return config.evaluate.reply_tokens or config.serve.max_reply_tokens


def _cards(config: Config, workspace: Workspace) -> dict[str, Conversation]:
    """Of the written conversations, what training lines do not say: card and writer."""
    name = config.dataset.conversations
    source = workspace.conversations if name is None else workspace.find(name)
    return {one.id: one for one in read_conversations(source)} if source.is_file() else {}
