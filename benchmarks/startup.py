"""`coach --help` against `import typer`: the best of 20 each, and the bound of 1.5 x + 0.1 s.

Run: .venv/bin/python benchmarks/startup.py
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def best(command: Sequence[str], times: int = 20) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    typer = best([sys.executable, "-c", "import typer"])
    help_ = best([str(Path(sys.executable).with_name("coach")), "--help"])
    bound = 1.5 * typer + 0.1
    sys.stdout.write(
        f"import typer {typer:.3f} s, coach --help {help_:.3f} s, bound {bound:.3f} s\n"
    )


if __name__ == "__main__":
    main()
