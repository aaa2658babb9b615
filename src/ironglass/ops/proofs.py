"""What every certificate begins and ends with: the network's graph and the region, and the least margin."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.values import Threat

from .bounds import Interval, region
from .capture import capture
from .graph import Graph


def opened(model: Model, x: Tensor, threat: Threat, double: bool = False) -> tuple[Graph, Interval]:
    """Returns the graph of the model's network, and the inputs that the threat allows.

    Args:
        model: that gives its network.
        x: ``(N, *shape)``, input units.
        threat: linf, l2 or l1.
        double: compute in float64 though the network is float32. Always so outside the CPU.

    Raises:
        InputError: if the network has an operator that cannot be bounded.
    """
    net = model.module()
    held = next((p for p in [*net.parameters(), *net.buffers()] if p.is_floating_point()), x)
    dtype = torch.float64 if double or held.device.type != "cpu" else held.dtype
    graph = capture(net, x.to(held), dtype)
    return graph, region(x.to(held.device), threat, model.bounds, held.dtype, dtype)


def weakest(margins: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Returns the least margin over the other classes ``(N,)`` like x, rounded down; minus infinity if not finite.

    Args:
        margins: ``(N, classes)``, lower bounds of :math:`z_y - z_j`.
        y: labels ``(N,)``.
        x: what the result is like.
    """
    least = margins.scatter(1, y.to(margins.device)[:, None], torch.inf).amin(1)
    least = torch.where(least.isfinite(), least, -torch.inf).to(x)
    return torch.nextafter(least, torch.full_like(least, -torch.inf))
