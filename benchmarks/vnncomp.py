"""Verdicts on properties of the verification competition, beside what its tools reached.

    python benchmarks/vnncomp.py [CATEGORY ...] [--time 20] [--every 8] [--first K] [--known] [--cpu] [--json FILE]

Without ``--cpu`` the time is by the clock on the wall; with it, processor seconds of this process: on a busy machine
the fair one. A verdict that contradicts the known one ends the script with an error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

import ironglass as ig

DATA = Path(os.environ.get("IRONGLASS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "cert"
SAID = {"verified": "unsat", "falsified": "sat"}


def competitor(specs: list[dict[str, Any]]) -> str:
    """What alpha-beta-CROWN is recorded with on these instances: on a GPU, with 2 to 5 minutes for each."""
    done = [spec["abcrown_s"] for spec in specs if spec["abcrown"] in ("sat", "unsat")]
    return f"alpha-beta-CROWN in the competition: {len(done)} of {len(specs)}, median {median(done):.1f} s" * bool(done)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("categories", nargs="*", help="acasxu, mnistfc, cifar10_resnet, oval21, verivital; all if none")
    parser.add_argument("--time", type=float, default=20.0)
    parser.add_argument("--every", type=int, default=8, help="every Nth instance of a category; 1 takes an hour or two")
    parser.add_argument("--first", type=int, default=0, help="begin with this one")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--known", action="store_true", help="leave out what no tool of the competition decided")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if not DATA.is_dir():
        print(f"needs the competition's instances: set IRONGLASS_DATA; looked in {DATA}")
        return 0
    manifest = json.loads((DATA / "manifest.json").read_text())
    clock = time.process_time if asked.cpu else time.monotonic
    names: dict[str, list[str]] = defaultdict(list)
    for name, spec in manifest["specs"].items():
        category = name.split(":")[0]
        if asked.known and spec["verdict"] == "unknown":
            continue
        if not asked.categories or category in asked.categories or f"{category}:{spec['model']}" in asked.categories:
            names[category if category == "acasxu" else f"{category}:{spec['model']}"].append(name)
    print(f"{asked.time:g} {'processor ' if asked.cpu else ''}seconds, {torch.get_num_threads()} threads")
    wrong, rows = [], []
    for group, members in names.items():
        seconds, known, solved, settled_anew = [], 0, 0, 0
        chosen = members[asked.first :: asked.every]
        for name in chosen:
            spec = manifest["specs"][name]
            begun = clock()
            verdict = ig.certify.vnnlib(
                DATA / manifest["models"][spec["model"]]["file"], DATA / spec["file"], time=asked.time, clock=clock
            )
            took, said = clock() - begun, SAID.get(verdict.outcome, verdict.outcome)
            contradicts = {said, spec["verdict"]} == {"sat", "unsat"}
            wrong += [name] * contradicts
            known += spec["verdict"] != "unknown"
            solved += said in ("sat", "unsat") and spec["verdict"] != "unknown"
            settled_anew += said in ("sat", "unsat") and spec["verdict"] == "unknown"
            seconds += [took] * (said in ("sat", "unsat"))
            rows.append({"name": name, "said": said, "known": spec["verdict"], "seconds": took, "bound": verdict.bound,
                         "domains": verdict.domains, "reason": verdict.reason})  # fmt: skip
            mark = " CONTRADICTS" if contradicts else ""
            print(f"  {name:48} {said:8} known {spec['verdict']:8} {took:7.1f} s  {verdict.reason}{mark}", flush=True)
        middle = f", median {median(seconds):.2f} s" if seconds else ""
        share = f"{solved} of {known} known verdicts ({100 * solved / max(known, 1):.0f} %)"
        print(f"{group}: {share}, {settled_anew} of {len(chosen) - known} unknown ones{middle}", end="; ")
        print(f"{len(chosen)} of {len(members)} held were run. {competitor([manifest['specs'][n] for n in chosen])}")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))
    if wrong:
        print("these contradict a known verdict:", *wrong, sep="\n  ")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
