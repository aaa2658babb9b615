"""AutoAttack beside its authors' code, on robust networks: robust accuracy, passes an image, CPU seconds.

    python benchmarks/auto_attack.py [--images 1000] [--models mnist_pgd_madry …] [--norm linf] [--ours]

The authors' package ``autoattack`` is used where it can be imported (put its checkout on PYTHONPATH). Networks and
pictures are the shared data sets (``IRONGLASS_DATA``). Both sides run in one process on one thread, with the allocator
setting that Ironglass makes; the passes include the first look at every image.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.values import Norm, Threat
from ironglass.models import allocator
from subjects import Counted

ROOT = Path(os.environ.get("IRONGLASS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RADII: dict[str, dict[Norm, float]] = {
    "mnist_pgd_madry": {"linf": 0.3, "l2": 1.0, "l1": 5.0},
    "mnist_cnn_a_adv": {"linf": 0.3, "l2": 1.0, "l1": 5.0},
    "cifar_resnet2b_adv": {"linf": 2 / 255, "l2": 0.25, "l1": 3.0},
}
AUTHORS: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def subject(name: str, images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Returns a network, pictures and labels."""
    sys.path.insert(0, str(ROOT / "loaders"))
    ready = importlib.import_module("ready")
    kind = "cifar_resnet_vit" if "resnet" in name or "vit" in name else "seqnet"
    loaded: Any = importlib.import_module(kind).load(ROOT / "models" / f"{name}.npz")
    net: nn.Module = loaded[0] if isinstance(loaded, tuple) else loaded
    x, y = ready.mnist("dev") if name.startswith("mnist") else ready.cifar10_jpeg("dev", images)
    x = torch.from_numpy(np.ascontiguousarray(x[:images])).float() / 255
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
    return net.eval(), x, torch.from_numpy(np.asarray(y[:images])).long()


def ours(net: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, int, int]:
    """Returns what our AutoAttack finds, and its passes."""
    result = ig.attack.auto_attack(net, x, y, threat)
    return result.adversarial, result.cost.forward, result.cost.backward


def theirs(package: Any, net: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, int, int]:
    """Returns what the authors' code finds, and its passes."""
    counted = Counted(net).eval()
    attack = package.AutoAttack(counted, norm=AUTHORS[threat.norm], eps=threat.eps, seed=0, device="cpu", verbose=False)
    found: Tensor = attack.run_standard_evaluation(x, y, bs=250)
    return found, counted.forwards, counted.backwards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--models", nargs="+", default=list(RADII), choices=list(RADII))
    parser.add_argument("--norm", default="linf", choices=list(AUTHORS))
    parser.add_argument("--ours", action="store_true", help="leave the authors' code out")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    allocator.keep_memory()
    if not (ROOT / "MANIFEST.md").exists():
        sys.exit(f"no shared data sets in {ROOT}: set IRONGLASS_DATA")
    runs: dict[str, Any] = {"ironglass": ours}
    if not asked.ours:
        here = Path(__file__).resolve().parent  # this script bears the package's name
        sys.path = [path for path in sys.path if Path(path or ".").resolve() != here]
        try:
            package = importlib.import_module("autoattack")
            runs["autoattack"] = lambda *request: theirs(package, *request)
        except ImportError as error:
            print(f"the authors' code is left out: {error}", file=sys.stderr)
    print(f"ironglass {ig.__version__}, torch {torch.__version__}; 1 thread, {asked.images} images\n")
    head = "| model | threat | code | clean | robust | farthest | forward / image | backward / image | CPU s |"
    print(head + "\n|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in asked.models:
        net, x, y = subject(name, asked.images)
        threat = Threat(asked.norm, RADII[name][asked.norm])
        with torch.no_grad():
            clean = float((net(x).argmax(1) == y).double().mean())
        for code, run in runs.items():
            start = time.process_time()
            bad, forward, backward = run(net, x, y, threat)
            cpu = time.process_time() - start
            size = (bad - x).double().flatten(1).norm(p={"linf": float("inf"), "l2": 2, "l1": 1}[asked.norm], dim=1)
            with torch.no_grad():
                robust = float((net(bad).argmax(1) == y).double().mean())
            print(
                f"| {name} | {threat} | {code} | {clean:.1%} | {robust:.1%} | {float(size.max()):.4g} |"
                f" {forward / len(x):.0f} | {backward / len(x):.0f} | {cpu:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
