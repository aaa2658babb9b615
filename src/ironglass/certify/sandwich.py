"""The sandwich: what is proven, what is broken, and what is estimated between, for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ironglass.core.errors import AccessError, InputError
from ironglass.core.method import Method, get
from ironglass.core.results import AttackResult, Certificate, Cost, Estimate, Result
from ironglass.core.sandwich import Sandwich
from ironglass.core.values import Threat
from ironglass.models.adapter import Adapter, check_request, wrap
from ironglass.ops import lp

Named = str | Method[Any]


def sandwich(
    model: object,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    certificates: Sequence[Named] = ("crown",),
    attacks: Sequence[Named] = ("deepfool", "fmn"),
    estimate: Named | None = "clever",
    steps: int = 6,
    seed: int = 0,
) -> Sandwich:
    r"""Bounds the distance to the nearest change of label from below by proofs and from above by attacks.

    .. math:: \text{proven radius} \;\le\; \min\{\|\delta\| : f(x + \delta) \ne y\} \;\le\; \text{attacked radius}

    Each attack looks for the smallest change (those that need a finite eps get ``threat``). The proven radius is found
    by bisection on :math:`2^{steps}` radii up to ``threat.eps``, which all samples share, so those at the same radius
    are certified in one batch. At each radius the certificates run in their order: the first on all samples, also where
    an attack has won, which would show that one of the two is wrong; the others on what is left open. With ``"milp"``
    (or another complete method) as the last, each sample is settled at each radius, its counterexamples lower the upper
    side, and both sides meet to within :math:`\varepsilon / 2^{steps}`: the exact distance, where that is affordable.

    Args:
        model: a network, or what `wrap` made of it.
        x: samples ``(N, *shape)`` within the bounds.
        y: labels ``(N,)``.
        threat: norm, largest radius and mask.
        certificates: methods of proof, cheap ones first: by name, or with options fixed, as ``milp.with_(seconds=10)``.
        attacks: attacks by name, or with options fixed.
        estimate: an estimate of the radius, no bound; None for none.
        steps: halvings of the radius.
        seed: of the methods that draw.

    Returns:
        Both sides for each sample; what a method refused is in its ``notes``.

    Raises:
        InputError: if the request is wrong.
        MethodFailed: if something is both proven and broken, which is a bug of Ironglass.
    """
    if not 0 < threat.eps < float("inf") or not 0 <= steps <= 20:
        raise InputError(f"eps={threat.eps}, steps={steps}", "give a finite radius above 0, and 0 to 20 halvings")
    ready = wrap(model)  # type: ignore[arg-type]
    ready.probe(x)
    check_request(ready, x, y, threat)
    work = _Work(ready, x, y, threat, seed)
    for attack in attacks:
        work.attack(_method(attack, "attack"))
    guess = None if estimate is None else work.estimate(_method(estimate, "estimate"))
    work.bisect([_method(each, "certify") for each in certificates], 2**steps)
    return Sandwich(
        x=x,
        method="sandwich",
        options={"steps": steps},
        cost=work.cost,
        lower=work.lower,
        upper=work.upper,
        y=y,
        threat=threat,
        estimate=guess,
        certificates=tuple(work.proofs),
        attacks=tuple(work.attacks),
        notes=tuple(work.notes),
        seed=seed,
    )


def _method(given: Named, kind: str) -> Method[Any]:
    method = get(given) if isinstance(given, str) else given
    if method.card.decorator != kind:
        raise InputError(f"{method.card.name} is no {kind}", "ironglass list shows which methods are")
    return method


class _Work:
    """Both sides of all samples while they close in."""

    def __init__(self, model: Adapter, x: Tensor, y: Tensor, threat: Threat, seed: int) -> None:
        self._model, self._x, self._y, self._seed = model, x, y, seed
        mask = threat.mask
        mask = None if mask is None else mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape)
        self._threat, self._refused = Threat(threat.norm, threat.eps, mask), set[str]()
        right = model.outputs(x).argmax(1) == y
        self.lower = torch.zeros(len(x), dtype=torch.float64)
        self.upper = torch.where(right, torch.inf, 0.0).double().cpu()
        self.proofs: list[str] = []
        self.attacks: list[str] = []
        self.notes: list[str] = []
        self.cost = Cost()

    def _run(self, method: Method[Any], rows: Tensor, eps: float) -> Result | None:
        """Runs a method on some samples; None, with a note, where it refuses."""
        threat = Threat(self._threat.norm, eps, self._threat.mask).take(rows)
        options = {"seed": self._seed} if method.card.random and "seed" not in method.fixed else {}
        try:
            result = cast(Result, method(self._model, self._x[rows], self._y[rows], threat, **options))  # type: ignore[operator]
        except (AccessError, InputError) as error:
            self._refused.add(method.card.name)
            self.notes.append(f"{method.card.name} was refused: {error.message}")
            return None
        self.cost = self.cost + result.cost
        return result

    def _broken(self, rows: Tensor, points: Tensor, success: Tensor) -> None:
        """Lowers the upper side to the length of changes that break the network; lengths are taken in float64."""
        length = lp.distance(points.double(), self._x[rows].double(), self._threat, self._model.bounds).cpu()
        rows = rows.cpu()
        self.upper[rows] = torch.where(success.cpu(), self.upper[rows].minimum(length), self.upper[rows])

    def attack(self, method: Method[Any]) -> None:
        """Lowers the upper side by what an attack finds."""
        rows = self._rows(self.upper > 0)
        eps = self._threat.eps if method.card.finite else float("inf")
        result = self._run(method, rows, eps) if len(rows) else None
        if result is not None:
            found = cast(AttackResult, result)
            self.attacks.append(method.card.name)
            self._broken(rows, found.adversarial, found.success)

    def estimate(self, method: Method[Any]) -> Tensor | None:
        """Returns an estimate of all samples."""
        result = self._run(method, self._rows(self.upper >= 0), self._threat.eps)
        return None if result is None else cast(Estimate, result).radius.double().cpu()

    def bisect(self, methods: list[Method[Any]], cells: int) -> None:
        """Raises the lower side: each sample by bisection on radii that all share."""
        low = torch.zeros(len(self._x), dtype=torch.long)
        high = torch.where(self.upper > 0, cells + 1, 1)
        while bool((high - low > 1).any()) and any(each.card.name not in self._refused for each in methods):
            middle = (low + high) // 2
            for k in torch.unique(middle[high - low > 1]).tolist():
                open_ = (middle == k) & (high - low > 1)
                proven = self._prove(methods, self._rows(open_), k * self._threat.eps / cells)
                low[open_] = torch.where(proven, k, low[open_])
                high[open_] = torch.where(proven, high[open_], k)
        self.lower = low.double() * self._threat.eps / cells

    def _prove(self, methods: list[Method[Any]], rows: Tensor, eps: float) -> Tensor:
        """Which of the samples are proven at a radius: methods in their order, each on what is left."""
        proven = torch.zeros(len(rows), dtype=torch.bool)
        for place, method in enumerate(methods):
            left = (~proven & ((self.upper[rows.cpu()] > eps) | (place == 0))).nonzero()[:, 0]
            if not len(left) or method.card.name in self._refused:
                continue
            result = self._run(method, rows[left.to(rows.device)], eps)
            if result is None:
                continue
            found, part = cast(Certificate, result), rows[left.to(rows.device)]
            proven[left] = found.verified.cpu()
            if method.card.name not in self.proofs:
                self.proofs.append(method.card.name)
            if found.counterexample is not None and found.falsified is not None:
                self._broken(part, found.counterexample, found.falsified)
        return proven

    def _rows(self, which: Tensor) -> Tensor:
        return which.nonzero()[:, 0].to(self._x.device)
