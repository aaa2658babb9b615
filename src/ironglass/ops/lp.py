r"""Exact geometry of :math:`\{\delta : \|\delta\|_p \le \varepsilon\} \cap \mathrm{box} \cap \mathrm{mask}`.

Everything is batched, a row a sample, and a row's answer does not depend on the other rows. The *room* of a coordinate
is how far it may move in the direction it wants: to the bound of the box, or not at all outside the mask. With it both
questions that attacks ask have closed forms:

* the nearest point (`project`) is ``clip(v)`` for linf, ``clip(s v)`` for l2, soft thresholding then ``clip`` for l1;
* the farthest point along a gradient (`maximize`) is ``sign * min(eps, room)``, ``clip(s g)``, and filling the room in
  the order of ``|g|``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.values import Bounds, Norm, Threat

from . import transport


def norm(delta: Tensor, name: Norm) -> Tensor:
    """Returns the norm of each row ``(N,)``; ``l0`` counts values that are not 0.

    Raises:
        InputError: in ``wasserstein``, which takes the clean samples too.
    """
    if name == "wasserstein":
        raise InputError("a change alone has no Wasserstein distance", "use distance(adversarial, x, threat, bounds)")
    flat = delta.flatten(1)
    if name == "linf":
        return flat.abs().amax(1)
    if name == "l2":
        size: Tensor = torch.linalg.vector_norm(flat, dim=1)
        return size
    if name == "l1":
        return flat.abs().sum(1)
    return (flat != 0).sum(1).to(delta.dtype)


def distance(adversarial: Tensor, x: Tensor, threat: Threat, bounds: Bounds) -> Tensor:
    """Returns how far each row is from its clean sample ``(N,)``, in the threat's norm.

    Args:
        adversarial: samples ``(N, *shape)``.
        x: the clean ones.
        threat: whose norm counts.
        bounds: of the inputs.
    """
    if threat.norm == "wasserstein":
        return transport.distance(adversarial, x, bounds)
    return norm(adversarial - x, threat.norm)


def column(values: Tensor, like: Tensor) -> Tensor:
    """Returns a value a row ``(N,)`` in the shape ``(N, 1, …)`` that spreads over the rows of ``like (N, *shape)``."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def dual(name: Norm) -> Norm:
    r"""Returns the norm :math:`q` with :math:`1/p + 1/q = 1`."""
    return {"linf": "l1", "l2": "l2", "l1": "linf", "l0": "linf"}[name]  # type: ignore[return-value]


def room(direction: Tensor, x: Tensor, bounds: Bounds, mask: Tensor | None = None) -> Tensor:
    """Returns how far each value may move in the sign of ``direction``, at least 0; 0 outside the mask."""
    far = torch.where(direction > 0, bounds.high - x, x - bounds.low).clamp_(min=0)
    return far if mask is None else far * (mask != 0)


def project(x: Tensor, origin: Tensor, threat: Threat, bounds: Bounds) -> Tensor:
    """Returns the nearest point to ``x`` in the threat's ball around ``origin``, within bounds and mask.

    In ``wasserstein`` it is not the nearest: the change is scaled.

    Args:
        x: points ``(N, *shape)``, input units.
        origin: the balls' centres ``(N, *shape)``, within the bounds.
        threat: norm, radius and mask.
        bounds: of the inputs.
    """
    if threat.norm == "wasserstein":
        return transport.project(inside(x, origin, threat, bounds), origin, threat.eps, bounds)
    delta = x - origin
    if threat.mask is not None:
        delta = delta * (threat.mask != 0)
    if threat.norm == "linf":
        delta = delta.clamp_(-threat.eps, threat.eps)
    elif threat.eps < float("inf"):
        size = delta.abs().flatten(1)
        limit = room(delta, origin, bounds, threat.mask).flatten(1)
        shrink = {"l2": shrink_l2, "l1": shrink_l1, "l0": _shrink_l0}[threat.norm]
        delta = shrink(size, limit, threat.eps).reshape_as(delta) * delta.sign()
    return move(origin, delta, threat, bounds)


def move(origin: Tensor, delta: Tensor, threat: Threat, bounds: Bounds) -> Tensor:
    """Returns ``origin + delta`` within bounds and mask, rounded towards ``origin``: rounding never leaves the ball.

    In float32 a step of 1/255 to the nearest number is up to 8e-6 of its length too long.
    """
    x = origin + delta
    x = torch.where((x - origin).abs() > delta.abs(), x.nextafter(origin), x)
    return inside(x, origin, threat, bounds)


def inside(x: Tensor, origin: Tensor, threat: Threat, bounds: Bounds) -> Tensor:
    """Returns ``x`` within the bounds, and exactly ``origin`` outside the mask: takes away what rounding left."""
    x = x.clamp(bounds.low, bounds.high)
    return x if threat.mask is None else torch.where(threat.mask != 0, x, origin)


def maximize(grad: Tensor, x: Tensor, threat: Threat, bounds: Bounds) -> Tensor:
    r"""Returns the :math:`\delta` that maximizes :math:`\langle g, \delta\rangle` over ball, box and mask around ``x``.

    This is the steepest step of length ``threat.eps``: exact also where values are saturated.

    Args:
        grad: ``(N, *shape)``.
        x: where the step starts ``(N, *shape)``.
        threat: the step's norm, length and mask.
        bounds: of the inputs.
    """
    size = grad.abs().flatten(1)
    limit = torch.where(grad != 0, room(grad, x, bounds, threat.mask), 0).flatten(1)
    if threat.norm == "linf":
        step = limit.clamp(max=threat.eps)
    elif threat.norm == "l2":
        step = stretched(size, limit, threat.eps)
    elif threat.norm == "l1":
        step = fill(limit, -size, threat.eps)
    else:
        step = _largest(limit, size * limit, threat.eps)
    return step.reshape_as(grad) * grad.sign()


def stride(grad: Tensor, x: Tensor, origin: Tensor, threat: Threat, size: float, bounds: Bounds) -> Tensor:
    """Returns the steepest step of length ``size`` from ``x`` in the threat's norm, for a walk in ``origin``'s ball.

    In ``l1`` what the ball has no more room for is first taken from where it helps least: projection would take it
    from all values alike, also from the best ones.
    """
    step = Threat(threat.norm, size, threat.mask)
    if threat.norm != "l1":
        return maximize(grad, x, step, bounds)
    delta = x - origin
    held = delta.abs().flatten(1)
    worth = torch.where(held > 0, (delta.sign() * grad).flatten(1), torch.inf)
    kept = held - fill(held, worth, (held.sum(1, keepdim=True) + size - threat.eps).clamp(min=0))
    start = kept.reshape_as(delta) * delta.sign()
    return start + maximize(grad, origin + start, step, bounds) - delta


def fill(limit: Tensor, order: Tensor, amount: Tensor | float) -> Tensor:
    """Returns ``amount`` in all, given to the values of each row in rising ``order``, to each at most its limit."""
    order = order.argsort(dim=1, stable=True)
    ordered = limit.gather(1, order)
    left = amount - (ordered.cumsum(1) - ordered)
    return torch.zeros_like(limit).scatter_(1, order, ordered.minimum(left.clamp_(min=0)))


def stretched(size: Tensor, limit: Tensor, eps: float) -> Tensor:
    r"""Returns ``min(s * size, limit)`` with the ``s`` at which its l2 norm is ``eps``; ``limit`` if that is shorter.

    Newton from below: given which coordinates are at their limit, ``s`` has a closed form, and a larger ``s`` only
    sends more of them there; so it ends, exactly, once no more arrive. Sizes are taken relative to the largest that is
    not at its limit, so that squares of small ones do not vanish.
    """
    free = (size > 0) & (limit > 0)
    limit, unit = limit * free, _of_top_one(size * free)
    squares, spare = unit.square(), limit.square()
    while True:
        spent, rest = (spare * ~free).sum(1, keepdim=True), (squares * free).sum(1, keepdim=True)
        if bool(((rest < TINY) & free.any(1, keepdim=True)).any()):
            unit = _of_top_one(unit * free)
            squares = unit.square()
            rest = (squares * free).sum(1, keepdim=True)
        step = unit * ((eps**2 - spent).clamp_(min=0) / rest.clamp(min=TINY)).sqrt_()
        still = free & (step < limit)
        if torch.equal(still, free):
            return torch.where(free, step, limit)
        free = still


TINY = 1e-12
"""A sum of squares, relative to 1, below which the rest is measured anew."""


def _of_top_one(size: Tensor) -> Tensor:
    top = size.amax(1, keepdim=True)
    return size / torch.where(top > 0, top, 1)


def shrink_l2(size: Tensor, limit: Tensor, eps: float) -> Tensor:
    """Returns the sizes ``(N, d)`` nearest to these, each at most its limit, of an l2 norm of at most ``eps``."""
    clipped = size.minimum(limit)
    over = torch.linalg.vector_norm(clipped, dim=1) > eps
    if bool(over.any()):
        clipped[over] = stretched(size[over], limit[over], eps)
    return clipped


def shrink_l1(size: Tensor, limit: Tensor, eps: float) -> Tensor:
    """Returns the sizes ``(N, d)`` nearest to these, each at most its limit, of a sum of at most ``eps``."""
    clipped = size.minimum(limit)
    over = clipped.sum(1) > eps
    if bool(over.any()):
        size, limit = size[over], limit[over]

        def at(threshold: Tensor) -> tuple[Tensor, Tensor]:
            left = size - threshold
            free, full = (left > 0) & (left < limit), left >= limit.clamp(min=torch.finfo(size.dtype).tiny)
            fixed = torch.where(full, limit, 0).sum(1, keepdim=True) - eps
            count, total = free.sum(1, keepdim=True), torch.where(free, size, 0).sum(1, keepdim=True)
            return fixed + total - count * threshold, (fixed + total) / count

        threshold = root(at, size.new_zeros(len(size), 1), size.amax(1, keepdim=True))
        shrunk = (size - threshold).clamp_(min=0).minimum(limit)
        total = shrunk.sum(1, keepdim=True)  # may be too large by what rounding did to the threshold, once a value
        clipped[over] = shrunk * torch.where(total > eps, eps / total, 1)
    return clipped


def _shrink_l0(size: Tensor, limit: Tensor, eps: float) -> Tensor:
    clipped = size.minimum(limit)
    return _largest(clipped, size.square() - (size - clipped).square(), eps)


def _largest(values: Tensor, worth: Tensor, count: float) -> Tensor:
    """Keeps the ``count`` values of each row that are worth most."""
    kept = worth.topk(int(min(count, worth.shape[1])), dim=1).indices
    return torch.zeros_like(values).scatter_(1, kept, values.gather(1, kept))


def root(at: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor) -> Tensor:
    """Returns the zero of a falling, piecewise linear function of each row, by Newton's method kept in a bracket.

    It ends, exactly, where a piece's own zero lies on that piece, or where rounding leaves no number between the ends
    of the bracket.

    Args:
        at: gives the value, and the zero of the linear piece there ``(n, 1)``.
        low: where the value is at least 0 ``(n, 1)``.
        high: where it is at most 0 ``(n, 1)``.
    """
    here, done = low, torch.zeros_like(low, dtype=torch.bool)
    while True:
        value, zero = at(here)
        low, high = torch.where(value >= 0, here, low), torch.where(value <= 0, here, high)
        middle = (low + high) / 2
        there = torch.where((zero > low) & (zero <= high), zero, middle)
        done |= (zero == here) | (there == here) | (middle <= low) | (middle >= high)
        if bool(done.all()):
            return here
        here = torch.where(done, here, there)
