from collections.abc import Callable
from typing import Any

import pytest
from conftest import TinyRun, coach

from coach_mlx import chat, chat_format, dataset, fuse, gguf, importer, trainer
from coach_mlx.errors import ToolError


def test_a_talk_streams_replies_and_leaves_nothing_behind(
    tiny_project: Callable[..., TinyRun],
) -> None:
    config, workspace, options = tiny_project("serve.max_reply_tokens=5")
    nothing = coach("chat", *options, stdin="hello\n")
    assert nothing.returncode == 5
    assert "coach run" in nothing.stderr
    for stage in (dataset, importer, trainer, fuse, gguf):
        stage.run(config, workspace)
    before = {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*") if path.is_file()}
    talk = coach("chat", *options, stdin="I slept badly\n\n" + "and the bus was late\n" * 9)
    assert talk.returncode == 0, talk.stderr
    # A random model may say nothing now and then, but not to eight of ten messages.
    assert len([line for line in talk.stdout.splitlines() if line.strip()]) >= 2
    assert "not a therapist" in talk.stderr
    assert "Nothing you write leaves this machine" in talk.stderr
    after = {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*") if path.is_file()}
    assert after == before


def test_the_oldest_turns_are_set_aside_and_it_is_said(
    tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [{"role": "system", "content": "Listen."}]
    for number in range(10):
        messages.append({"role": "user", "content": f"turn {number} " + "word " * 20})
        messages.append({"role": "assistant", "content": "yes " * 20})
    messages.append({"role": "user", "content": "the last"})
    kept = chat.fit(tokenizer, messages, 200)
    assert len(chat_format.encode_prompt(tokenizer, kept)) <= 200
    assert kept[0] == messages[0]
    assert kept[-1] == messages[-1]
    assert kept[1:] == messages[len(messages) - len(kept) + 1 :]
    assert "turns are set aside" in capsys.readouterr().err
    assert chat.fit(tokenizer, messages, 5000) == messages
    with pytest.raises(ToolError, match=r"serve\.num_ctx"):
        chat.fit(tokenizer, [messages[0], {"role": "user", "content": "word " * 300}], 200)
