"""A property of a network, from files: proven, refuted, or neither."""

from __future__ import annotations

import time as clocks
from collections.abc import Callable
from pathlib import Path

import torch

from ironglass.core.errors import InputError
from ironglass.core.properties import Property, Verdict
from ironglass.core.results import Cost
from ironglass.models import allocator
from ironglass.models.onnx_model import exact_network
from ironglass.models.vnnlib import read_vnnlib
from ironglass.ops.branching.problem import Budget
from ironglass.ops.branching.verify import decided, outputs_of
from ironglass.ops.branching.witness import Witness


def vnnlib(
    network: str | Path,
    prop: str | Path | Property,
    *,
    time: float | None = 60.0,
    seed: int = 0,
    tick: Callable[[str, int, int], None] | None = None,
    clock: Callable[[], float] = clocks.monotonic,
) -> Verdict:
    """Decides a property of an ONNX network within a time.

    First an attack on every box. Then a proof: for at most 16 inputs by halving boxes, else by splitting the signs of
    ReLU inputs (`beta_crown`), with linear bounds that hold for the network as it runs in floating point. A property is
    *falsified* only by a point of the exact box that the network in its own precision, the network in float64 and ONNX
    Runtime all find to break it; it is *verified* only where every part has a finite bound that is positive.

    Args:
        network: an ONNX file; the property speaks of its inputs and outputs in the file's order.
        prop: a VNN-LIB file, or a property.
        time: seconds in all; None for no limit.
        seed: of the attack's random points.
        tick: told ``(what, done, known)``.
        clock: that the time is read from.

    Returns:
        The verdict.

    Raises:
        InputError: if a file cannot be read, the network has an operator that is not known, or the two do not fit.
    """
    allocator.keep_memory()
    begun = clocks.perf_counter()
    budget = Budget(time, None, tick, clock)
    wanted = prop if isinstance(prop, Property) else read_vnnlib(prop)
    path = Path(network)
    net, shape, runtime = exact_network(path)
    example = torch.zeros(1, *shape)
    size = example.numel()
    outputs = net(example.to(next((p.dtype for p in net.parameters()), example.dtype))).shape[1]
    if (size, outputs) != (wanted.inputs, wanted.outputs):
        raise InputError(
            f"{path.name} takes {size} numbers and gives {outputs}, the property speaks of {wanted.inputs} and "
            f"{wanted.outputs}",
            "give the property that was written for this network",
        )
    outcome, settled = decided(net, wanted, shape, Witness(net, [runtime]), budget, seed)
    return Verdict(
        x=example[:0] if settled.point is None else settled.point,
        method="vnnlib",
        options={"time": time, "seed": seed},
        cost=Cost(seconds=clocks.perf_counter() - begun),
        outcome=outcome,
        outputs=outputs_of(net, settled.point, outputs),
        bound=settled.bound,
        domains=budget.used,
        reason=settled.reason,
        name=wanted.name,
    )
