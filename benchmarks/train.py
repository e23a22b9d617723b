"""Training beside mlx-lm's own: the same base, LoRA, data, batch size, precision, device, rate.

`rival`: both arms, each in a process of its own, train for the same wall time on the starter
conversations with all their turns; then the loss on the coach's words of those set aside. mlx-lm
runs twice: with all tokens in its loss, and with `--mask-prompt` (the last reply only). Its own
loop, loss and batches are called as its command line calls them. A supervised token is one of the
coach's words, or the end of its turn, in the loss of a step. `where`: where a step's time goes.
`loss`: the loss layer alone, 4,096 tokens and a vocabulary of 151,936, against the whole logits.
`kills`: the demo, 60 steps, killed with -9 at 20 random moments, against one that was not.

Run: .venv/bin/python benchmarks/train.py rival [SECONDS] | where | loss | kills
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coach_mlx import batches, importer, lora, losses, mlx_runtime, training_loop
from coach_mlx.batches import Course
from coach_mlx.chat_format import encode_conversation
from coach_mlx.config import TrainSection, load_config
from coach_mlx.ranks import Ranks
from coach_mlx.records import Conversation, Message
from coach_mlx.standing import Journal, Standing
from coach_mlx.training_loop import Run
from coach_mlx.workspace import PROJECT, Workspace, read_conversations, read_jsonl

SETTINGS = TrainSection(
    batch_size=4,
    max_seq_length=2048,
    rank=8,
    layers=8,
    learning_rate=5e-4,
    warmup_fraction=0,
    steps=10_000,  # the cosine is flat at its beginning: both arms keep the rate
    validation_fraction=0.05,
    grad_checkpoint=True,
)
SEED = 3


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def base_folder(place: Path) -> Path:
    config = load_config(None, ["name=bench", "base.model=smollm2"])
    workspace = Workspace(place, config)
    if not workspace.base_marker.is_file():
        importer.run(config, workspace)
    return workspace.base


def starters() -> list[Conversation]:
    system = (PROJECT / "config" / "system-prompt.md").read_text(encoding="utf-8").strip()
    first = Message(role="system", content=system)
    found = read_conversations(PROJECT / "reference" / "starter-conversations.jsonl")
    return [Conversation(messages=(first, *one.messages)) for one in found]


class Arm:
    """A model ready to train, the data both arms see, and the loss on what was set aside."""

    def __init__(self, place: Path) -> None:
        import mlx.core as mx
        import mlx.optimizers as optim

        loaded = mlx_runtime.open_model(base_folder(place))
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.conversations = starters()
        self.batches = batches.make_batches(self.tokenizer, self.conversations, SETTINGS, SEED)
        mx.random.seed(SEED)
        lora.attach(self.model, SETTINGS)
        self.model.train()
        self.optimizer = optim.AdamW(
            learning_rate=SETTINGS.learning_rate, weight_decay=0, bias_correction=True
        )

    def training_conversations(self) -> list[Conversation]:
        numbers = {row.conversation for batch in self.batches.training for row in batch}
        return [self.conversations[number - 1] for number in sorted(numbers)]

    def validation_loss(self) -> float:
        self.model.eval()
        rows = [row for batch in self.batches.validation for row in batch]
        total = sum(sum(training_loop.row_losses(self.model, [row])) for row in rows)
        return total / batches.target_count(rows)

    def run(self) -> Run:
        course = Course.of(len(self.batches.training), SETTINGS, SEED)
        return Run(
            self.model,
            self.optimizer,
            self.batches,
            course,
            SETTINGS,
            SEED,
            Path(),
            {},
            Ranks(0, 1),
            Standing(),
            Journal(None),
        )


def ours(place: Path, seconds: float) -> dict[str, Any]:
    import mlx.core as mx

    arm = Arm(place)
    state = arm.run()
    state.optimizer.init(arm.model.trainable_parameters())
    mx.reset_peak_memory()
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        training_loop._step(state)
    spent = time.monotonic() - started
    window = state.standing.window
    return result(arm, state.standing.step, window.tokens, window.targets, spent)


def result(arm: Arm, steps: int, tokens: int, targets: int, spent: float) -> dict[str, Any]:
    import mlx.core as mx

    peak = mx.get_peak_memory() / 1e9
    return {
        "steps": steps,
        "tokens": tokens,
        "supervised": targets,
        "seconds": round(spent, 1),
        "supervised_per_second": round(targets / spent, 2),
        "peak_gb": round(peak, 2),
        "validation": round(arm.validation_loss(), 4),
    }


class TimeIsUp(Exception):
    pass


def theirs(place: Path, seconds: float, mask_prompt: bool) -> dict[str, Any]:
    import mlx.core as mx
    from mlx_lm.tuner import trainer as rival
    from mlx_lm.tuner.datasets import CacheDataset, ChatDataset

    arm = Arm(place)
    for layer in arm.model.layers:  # mlx-lm brings its own recomputation
        layer.__class__ = (
            type(layer).__mro__[1] if hasattr(type(layer), "recomputes") else type(layer)
        )
    data = [{"messages": one.chat()} for one in arm.training_conversations()]
    supervised = supervised_by_text(arm, mask_prompt)
    counts = {"steps": 0, "tokens": 0, "targets": 0}
    started = time.monotonic()

    def counted(**options: Any) -> Any:
        for batch, lengths in rival.iterate_batches(**options):
            spent = time.monotonic() - started
            if counts["steps"] and spent >= seconds:
                raise TimeIsUp
            yield batch, lengths
            counts["steps"] += 1
            for row, (_, length) in zip(batch.tolist(), lengths.tolist(), strict=True):
                counts["tokens"] += length
                counts["targets"] += supervised[beginning(row)][:length].count(True)

    arguments = rival.TrainingArgs(
        batch_size=SETTINGS.batch_size,
        iters=10_000,
        steps_per_report=10_000,
        steps_per_save=10_000_000,
        max_seq_length=SETTINGS.max_seq_length,
        grad_checkpoint=SETTINGS.grad_checkpoint,
        adapter_file=str(place / "rival.safetensors"),
    )
    dataset = CacheDataset(ChatDataset(data, arm.tokenizer, mask_prompt=mask_prompt))
    for number in range(len(dataset)):
        dataset[number]  # encoded before the clock starts, as ours is
    mx.reset_peak_memory()
    started = time.monotonic()
    with contextlib.suppress(TimeIsUp):
        rival.train(arm.model, arm.optimizer, dataset, None, arguments, iterate_batches=counted)
    spent = time.monotonic() - started
    return result(arm, counts["steps"], counts["tokens"], counts["targets"], spent)


def supervised_by_text(arm: Arm, mask_prompt: bool) -> dict[tuple[int, ...], list[bool]]:
    """Which tokens of a conversation are the coach's, found by its beginning; with `mask_prompt`
    only those of the last reply.
    """
    found = {}
    for one in arm.training_conversations():
        context = len(one.chat()) - 1 if mask_prompt else 0
        encoded = encode_conversation(arm.tokenizer, one.chat(), context)
        found[beginning(encoded.token_ids)] = encoded.is_target
    return found


def beginning(token_ids: list[int]) -> tuple[int, ...]:
    """Longer than the system prompt that all of them share."""
    return tuple((token_ids + [0] * 400)[:400])


ARMS: dict[str, Callable[[Path, float], dict[str, Any]]] = {
    "coach": ours,
    "mlx-lm": lambda place, seconds: theirs(place, seconds, False),
    "mlx-lm --mask-prompt": lambda place, seconds: theirs(place, seconds, True),
}


def rival(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        say(f"validation loss before training: {Arm(Path(folder)).validation_loss():.4f}")
        rows = {}
        for name in ARMS:
            command = [sys.executable, __file__, "arm", name, folder, str(seconds)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows[name] = json.loads(done.stdout.splitlines()[-1])
            say(json.dumps({name: rows[name]}))
    keys = list(rows["coach"])
    say(f"| arm | {' | '.join(keys)} |")
    for name, row in rows.items():
        say(f"| {name} | {' | '.join(str(row[key]) for key in keys)} |")
    for name in list(ARMS)[1:]:
        ratio = rows["coach"]["supervised_per_second"] / rows[name]["supervised_per_second"]
        say(f"supervised tokens a second, coach / {name}: {ratio:.2f}")
    say(mlx_runtime.machine())


def where() -> None:
    """Of one step of one conversation of a middle length: each part alone, twice, the second."""
    import mlx.core as mx

    with tempfile.TemporaryDirectory() as folder:
        arm = Arm(Path(folder))
    middle = arm.batches.training[len(arm.batches.training) // 2][:1]
    targets = losses.targets_of([row.encoded for row in middle])
    head, trunk = losses.output_head(arm.model), losses.trunk(arm.model)
    hidden = trunk(targets.inputs).reshape(-1, arm.model.args.hidden_size)[targets.places]
    mx.eval(hidden)

    def loss_layer() -> Any:
        return mx.value_and_grad(lambda h: losses.summed_loss(head, h, targets.wanted))(hidden)

    count = batches.target_count(middle)
    parts = {
        "trunk, forward": lambda: trunk(targets.inputs),
        "loss layer, both ways": loss_layer,
        "loss and gradients": lambda: training_loop.gradients_of(arm.model, [middle], count),
    }
    seconds = {name: second_time(part) for name, part in parts.items()}
    whole = seconds["loss and gradients"]
    say(f"{middle[0].length} tokens, {count} supervised; {SETTINGS.layers} of 30 layers adapted")
    for name, spent in seconds.items():
        say(f"| {name} | {spent:.2f} s | {spent / whole:.0%} |")
    backward = whole - seconds["trunk, forward"] - seconds["loss layer, both ways"]
    say(f"| trunk, backward (the rest) | {backward:.2f} s | {backward / whole:.0%} |")
    say(mlx_runtime.machine())


def second_time(part: Callable[[], Any]) -> float:
    import mlx.core as mx

    mx.eval(part())
    started = time.monotonic()
    mx.eval(part())
    return time.monotonic() - started


def loss() -> None:
    import mlx.core as mx
    import mlx.nn as nn

    tokens, vocabulary, width = 4096, 151_936, 896
    mx.random.seed(1)
    weight = 0.02 * mx.random.normal((vocabulary, width))
    hidden, wanted = mx.random.normal((tokens, width)), mx.random.randint(0, vocabulary, (tokens,))
    mx.eval(weight, hidden, wanted)

    def head(rows: Any) -> Any:
        return rows @ weight.T

    def naive(rows: Any) -> Any:
        return nn.losses.cross_entropy(head(rows), wanted, reduction="sum")

    found = {}
    for name, layer in (
        ("all logits", naive),
        ("in chunks", lambda rows: losses.summed_loss(head, rows, wanted)),
    ):
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        started = time.monotonic()
        value, slope = mx.value_and_grad(layer)(hidden)
        mx.eval(value, slope)
        peak = (mx.get_peak_memory() - before) / 1e6
        found[name] = (value.item(), slope, peak)
        say(f"{name}: {peak:.0f} MB, {time.monotonic() - started:.1f} s, loss {value.item():.1f}")
    one, other = found.values()
    apart = (mx.linalg.norm(one[1] - other[1]) / mx.linalg.norm(one[1])).item()
    say(f"memory {other[2] / one[2]:.1%}, gradients apart by {apart:.1e}")
    say(mlx_runtime.machine())


def kills() -> None:
    rng = random.Random(7)
    with tempfile.TemporaryDirectory() as folder:
        straight, killed = Path(folder) / "straight", Path(folder) / "killed"
        for place in (straight, killed):
            for stage in ("dataset", "import"):
                coach(stage, place).wait()
        coach("train", straight).wait()
        count = 0
        while count < 20:
            process = coach("train", killed)
            time.sleep(rng.uniform(0, 16))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            count += 1
        code = coach("train", killed).wait()
        lines = [
            read_jsonl(place / "adapters" / "demo" / "metrics.jsonl")
            for place in (straight, killed)
        ]
        same = [
            [(one["step"], one["loss"], one["validation_loss"]) for one in found] for found in lines
        ]
        files = [
            (place / "adapters" / "demo" / "adapters.safetensors").read_bytes()
            for place in (straight, killed)
        ]
    say(f"{count} kills, exit {code}; losses equal: {same[0] == same[1]}")
    say(f"adapters equal, byte for byte: {files[0] == files[1]}; {mlx_runtime.machine()}")


def coach(stage: str, place: Path) -> "subprocess.Popen[bytes]":
    """In the one process that is started, so that a kill hits the training itself."""
    command = [sys.executable, "-m", "coach_mlx.cli", stage, "--config", "config/demo.yaml"]
    command += ["--workspace", str(place), "--set", "train.checkpoint_every=1"]
    command += ["--set", "train.steps=60"]
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(
        command, stdout=nowhere, stderr=nowhere, env={**os.environ, "COACH_LIFELINE": "-1:"}
    )


def main() -> None:
    mlx_runtime.prepare()
    command, *rest = sys.argv[1:] or ["rival"]
    if command == "arm":
        say(json.dumps(ARMS[rest[0]](Path(rest[1]), float(rest[2]))))
        return
    if command == "rival":
        rival(float(rest[0]) if rest else 600)
        return
    {"where": where, "loss": loss, "kills": kills}[command]()


if __name__ == "__main__":
    main()
