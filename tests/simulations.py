"""What a simulation found, for whoever asks: `pytest -rP tests/test_stats.py`."""

import sys


def shown(name: str, value: float) -> None:
    sys.stdout.write(f"{name}: {value:.4f}\n")
