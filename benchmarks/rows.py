"""Rows of a benchmark's table: a peer and ours do the same job in turns, in one process."""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Work = Callable[[], Any]


@dataclass
class Row:
    """A job, a peer that does it, and how ours compares.

    Args:
        job: what is done.
        peer: by whom; also a plain pass of the network.
        theirs: the peer doing it.
        ours: Ironglass doing it.
        bar: the share of the peer's CPU time that ours may take.
        correct: says of both results how right they are.
        why: what is to be said where ours is behind.
    """

    job: str
    peer: str
    theirs: Work
    ours: Work
    bar: float = 1.0
    correct: Callable[[Any, Any], str] = lambda theirs, ours: ""
    why: str = ""


def show(rows: Iterable[Row], repeats: int, memory: bool = True) -> None:
    """Runs the rows, and prints the table: medians of CPU seconds, and the median ratio of pairs run in turn.

    Memory is the peak that a run adds to a process which has given back what it had free, in MiB.
    """
    print("| job | peer | peer, CPU s | ours, CPU s | ours / peer | bar | MiB, peer / ours | correctness | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        results: list[Any] = [row.theirs(), row.ours()]  # warm
        seconds: list[list[float]] = [[], []]
        for _ in range(repeats):
            for side, work in enumerate((row.theirs, row.ours)):
                start = time.process_time()
                results[side] = work()
                seconds[side].append(time.process_time() - start)
        ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
        peaks = " / ".join(f"{peak(work):.0f}" for work in (row.theirs, row.ours)) if memory else ""
        verdict = "ahead" if ratio <= min(row.bar, 1) else f"within {row.bar:g}" if ratio <= row.bar else "**behind**"
        if verdict != "ahead" and row.why:
            verdict += f": {row.why}"
        times = " | ".join(f"{statistics.median(each):.3f}" for each in seconds)
        said = row.correct(*results)
        print(
            f"| {row.job} | {row.peer} | {times} | {ratio:.2f} | {row.bar:g} | {peaks} | {said} | {verdict} |",
            flush=True,
        )


def peak(work: Work) -> float:
    """Returns the MiB that a run adds at its peak, measured in a child of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            start = _status("VmRSS")
            work()
            os.write(writing, str((_status("VmHWM") - start) / 1024).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    said = os.read(reading, 64)
    os.close(reading)
    return float(said) if said else float("nan")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
