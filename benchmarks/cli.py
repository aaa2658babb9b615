"""How long the command line takes to answer: the median of ten runs, wall seconds.

Run: ``python benchmarks/cli.py``.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

RUNS = 10
LINES = {
    "list": 0,
    "list attack --json": 0,
    "show pgd": 0,
    "--help": 0,
    "attack --help": 0,
    "attack pgd --help": 0,
    "attack pdg net.py:make": 2,
}


def seconds(line: str, code: int) -> list[float]:
    """Returns the wall seconds of each run."""
    found = []
    for _ in range(RUNS):
        start = perf_counter()
        done = subprocess.run([sys.executable, "-m", "ironglass", *line.split()], capture_output=True, check=False)
        found.append(perf_counter() - start)
        assert done.returncode == code, (line, done.returncode, done.stderr)
    return found


def main() -> None:
    for line, code in LINES.items():
        times = seconds(line, code)
        print(f"ironglass {line:24} median {median(times):.3f} s, {min(times):.3f} to {max(times):.3f}, {RUNS} runs")


if __name__ == "__main__":
    main()
