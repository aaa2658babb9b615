r"""What a network is attacked with while it learns: a change for each sample of a batch.

Training wants the point of greatest loss, not a point that is just misclassified: so nothing stops at the boundary
here, as the attacks of the catalogue do. They can be trained with too, see `maximizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ironglass.core.catalogue import FINISH
from ironglass.core.draws import Draws
from ironglass.core.errors import InputError, suggest
from ironglass.core.method import Method, get
from ironglass.core.training import Batch, Student
from ironglass.core.values import Avoid, Threat
from ironglass.ops import lp
from ironglass.ops.balls import sample_ball

from .thin import ThinInputs

Fast = Literal["pgd", "n_fgsm", "fgsm_rs", "fgsm"]
Inner = Callable[[Student, Batch], Tensor]
"""Returns a changed sample for each of the batch ``(n, *shape)``."""
Divergence = Callable[[Tensor], Tensor]
"""``loss(scores) -> (n,)``, to ascend."""
NOISE = 2.0
"""The radius of N-FGSM's noise, in that of the threat (dejorge2022)."""
OVER = 1.25
"""The step of FGSM with a random start, in the radius (wong2020)."""


class Stream(Draws):
    """Draws of a whole batch from one generator: a training's samples need no streams of their own.

    Args:
        size: of the batch.
        generator: that is drawn from.
        device: of the draws.
    """

    def __init__(self, size: int, generator: torch.Generator, device: torch.device) -> None:
        self._size, self._generator, self._device = size, generator, device

    def uniform(
        self, shape: Sequence[int] = (), rows: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Returns draws from [0, 1), shape ``(n, *shape)``."""
        size = self._size if rows is None else len(rows)
        return torch.rand(size, *shape, generator=self._generator, dtype=dtype).to(self._device)

    def normal(
        self, shape: Sequence[int] = (), rows: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Returns standard normal draws ``(n, *shape)``."""
        size = self._size if rows is None else len(rows)
        return torch.randn(size, *shape, generator=self._generator, dtype=dtype).to(self._device)


def start(student: Student, x: Tensor, threat: Threat) -> Tensor:
    """Returns points drawn uniformly from the balls around ``x``, within the bounds."""
    return sample_ball(Stream(len(x), student.generator, x.device), x, threat, student.bounds)


def slope(student: Student, x: Tensor, loss: Divergence) -> Tensor:
    """Returns the gradient of each sample's loss to it, of the network in eval mode ``(n, *shape)``."""
    student.pay(len(x), len(x))
    leaf = x.detach().requires_grad_()
    with student.still(), torch.enable_grad(), ThinInputs():
        (grad,) = torch.autograd.grad(loss(student.net(leaf)).sum(), leaf, materialize_grads=True)
    return grad


def climb(
    student: Student, x: Tensor, threat: Threat, loss: Divergence, sizes: Sequence[float], begin: Tensor
) -> Tensor:
    r"""Ascends the loss by steepest steps, projected on the ball and the box.

    .. math:: x_{t+1} = \Pi\bigl(x_t + \arg\max_{\|u\| \le \alpha} \langle \nabla L(x_t), u\rangle\bigr)

    Args:
        student: the network that learns.
        x: clean samples ``(n, *shape)``, input units.
        threat: norm, radius and mask.
        loss: of the scores, a value a sample.
        sizes: of the steps, in the threat's norm.
        begin: where to start ``(n, *shape)``.
    """
    point, bounds = begin, student.bounds
    low, high = ((x + move).clamp(bounds.low, bounds.high) for move in (-threat.eps, threat.eps))
    for size in sizes:
        grad = slope(student, point, loss)
        if threat.norm == "linf" and threat.mask is None:  # ball and box are one box: the same point, in fewer steps
            point = torch.clamp(point + size * grad.sign_(), low, high)
            continue
        moved = point + lp.stride(grad, point, x, threat, size, bounds)
        point = lp.project(moved, x, threat, bounds)
    return point.detach()


def pgd(student: Student, batch: Batch, steps: int, step_size: float | None) -> Tensor:
    """Returns where projected ascent of cross-entropy ends, from a random start.

    Args:
        student: the network that learns.
        batch: to be attacked.
        steps: of the ascent.
        step_size: in the threat's norm, input units, at full radius; if None, 2.5 eps / steps.
    """
    threat = batch.allowed()
    size = 2.5 * threat.eps / steps if step_size is None else step_size * batch.grown
    begin = start(student, batch.x, threat)
    return climb(student, batch.x, threat, _entropy(batch.y), [size] * steps, begin)


def fgsm(student: Student, batch: Batch) -> Tensor:
    """Returns the samples moved by the one step that a linear network would fear most."""
    threat = batch.allowed()
    grad = slope(student, batch.x, _entropy(batch.y))
    return lp.move(batch.x, lp.maximize(grad, batch.x, threat, student.bounds), threat, student.bounds)


def fgsm_rs(student: Student, batch: Batch, step_size: float | None) -> Tensor:
    r"""Returns one step from a random start, projected (wong2020): :math:`\Pi(x + \eta + \alpha\,u)`.

    Args:
        student: the network that learns.
        batch: to be attacked.
        step_size: α at full radius; if None, 1.25 eps.
    """
    threat = batch.allowed()
    size = OVER * threat.eps if step_size is None else step_size * batch.grown
    begin = start(student, batch.x, threat)
    return climb(student, batch.x, threat, _entropy(batch.y), [size], begin)


def n_fgsm(student: Student, batch: Batch, step_size: float | None) -> Tensor:
    r"""Returns noise and one step beyond it, not projected on the ball: :math:`x + \eta + \alpha\,u` (dejorge2022).

    The noise has twice the threat's radius. What comes out may lie outside the ball, never outside the bounds and the
    mask; that is what keeps one step from becoming too easy to learn.

    Args:
        student: the network that learns.
        batch: to be attacked.
        step_size: α at full radius; if None, eps.
    """
    threat = batch.allowed()
    size = threat.eps if step_size is None else step_size * batch.grown
    noisy = start(student, batch.x, Threat(threat.norm, NOISE * threat.eps, threat.mask))
    grad = slope(student, noisy, _entropy(batch.y))
    step = lp.maximize(grad, noisy, Threat(threat.norm, size, threat.mask), student.bounds)
    return lp.inside(noisy + step, batch.x, threat, student.bounds)


def maximizer(attack: str | Method[Any], threat: Threat, steps: int, step_size: float | None) -> Inner:
    """Returns what a training attacks with.

    Args:
        attack: ``pgd``, ``n_fgsm``, ``fgsm_rs`` or ``fgsm``, made for training; else an attack of the catalogue by its
            name, or with options fixed: ``attack.momentum_pgd.with_(steps=7)``. Those stop at the boundary.
        threat: that is trained against.
        steps: of ``pgd``.
        step_size: of ``pgd``, ``n_fgsm`` and ``fgsm_rs``.

    Raises:
        InputError: if there is no such attack, or it does not fit.
    """
    if steps < 1 or (step_size is not None and not step_size > 0):
        raise InputError(f"steps={steps}, step_size={step_size}", "steps ≥ 1, and a step size above 0 or None")
    fast: dict[str, Inner] = {
        "pgd": lambda student, batch: pgd(student, batch, steps, step_size),
        "n_fgsm": lambda student, batch: n_fgsm(student, batch, step_size),
        "fgsm_rs": lambda student, batch: fgsm_rs(student, batch, step_size),
        "fgsm": fgsm,
    }
    if isinstance(attack, str) and attack in fast:
        return fast[attack]
    return _of_catalogue(_found(attack), threat)


def _found(attack: str | Method[Any]) -> Method[Any]:
    if isinstance(attack, Method):
        return attack
    try:
        return get(attack, "attack")
    except InputError as error:
        raise InputError(
            f"there is no attack '{attack}' to train with", suggest(attack, get_args(Fast)) + "; or an attack's name"
        ) from error


def _of_catalogue(method: Method[Any], threat: Threat) -> Inner:
    """Returns an attack of the catalogue for training: bare, on a metered copy, with a new seed each step."""
    card = method.card
    if card.decorator != "attack" or threat.norm not in card.norms:
        works = f"works in {', '.join(card.norms)}" if card.decorator == "attack" else "is no attack"
        raise InputError(f"{card.name} {works}; the threat is {threat}", f"ironglass list attack --norm {threat.norm}")
    options = card.filled(method.fixed)
    for option in card.options:
        given = options[option.name]
        if option.name in card.needs and given is None:
            raise InputError(f"{card.name} needs {option.name}", f"attack.{card.name}.with_({option.name}=…)")
        if "PerSample" in option.type and given is not None:
            raise InputError(f"{card.name}: {option.name} has a row a sample, and batches are drawn", "leave it out")
    for option in FINISH:
        if options.pop(option.name):
            raise InputError(f"{option.name} is done by the judge of attacks, not while training", "leave it out")

    def inner(student: Student, batch: Batch) -> Tensor:
        now = options | ({"seed": options["seed"] + 7919 * batch.step} if card.random else {})
        found = method.raw(student.model(batch.x), batch.x, Avoid(batch.y), batch.allowed(), **now)
        return lp.project(found.detach(), batch.x, batch.allowed(), student.bounds)

    return inner


def _entropy(labels: Tensor) -> Divergence:
    """Returns cross-entropy to the labels, which keeps its gradient where float32 would lose it."""
    ascend = Avoid(labels).loss("ce")
    return lambda scores: ascend(scores, slice(None))
