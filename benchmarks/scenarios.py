"""Seconds to deal 10,000 scenario cards, best of 5.

Run: .venv/bin/python benchmarks/scenarios.py
"""

import sys
import time

from coach_mlx.documents import read_document
from coach_mlx.rubric import RUBRIC, load_rubric
from coach_mlx.taxonomy import PERSONAS, TAXONOMY, Personas, deal, load_taxonomy
from coach_mlx.workspace import PROJECT


def main() -> None:
    taxonomy, rubric = load_taxonomy(PROJECT / TAXONOMY), load_rubric(PROJECT / RUBRIC)
    personas = read_document(PROJECT / PERSONAS, Personas)
    seconds = []
    for seed in range(5):
        started = time.perf_counter()
        deal(taxonomy, personas, rubric, 10_000, seed)
        seconds.append(time.perf_counter() - started)
    sys.stdout.write(f"10,000 cards: {min(seconds):.2f} s\n")


if __name__ == "__main__":
    main()
