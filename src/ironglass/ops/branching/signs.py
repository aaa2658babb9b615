"""Branch and bound over the signs of ReLU inputs: beta-CROWN, complete for ReLU networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ironglass.ops.linear import Lines

from .ascent import Raised, raised
from .attack import descended
from .choice import Choice, chosen
from .leaf import at_leaf
from .lined import ByStep, Lined
from .problem import Budget, Problem, Settled
from .witness import Witness

HELD = 1 << 24
"""How many values of rows are held at a time."""
EVERY, EAGER = 4, 32
"""After so many turns the points of so many parts, those with the lowest bounds, are descended from."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard each part is tried.

    Args:
        steps: of the ascent of a part's bound.
        root: of the ascent before anything is split.
        batch: parts at once, at most.
        gap: None to stop when every part is settled; else the search goes on until the bound is this near to the least
            excess that was seen.
        inner: steps of the climb for the intervals that cost the rows most, before anything is split; 0 leaves them.
        early: parts before the box is cut into pieces with intervals of their own, where that applies.
        piece: parts that a case may take on a piece near to proven before that is cut again.
        attack: begin with a descent from the centre and from the points where the first bounds are attained.
    """

    steps: int = 12
    root: int = 30
    batch: int = 128
    gap: float | None = None
    inner: int = 5
    early: int = 256
    piece: int = 4
    attack: bool = True


@dataclass(slots=True)
class Parts:
    """Parts of the box: the case each is for, its bound, signs, slopes and multipliers, rows first.

    Args:
        case: long ``(n,)``.
        bound: float64 ``(n,)``.
        signs: int8 by step ``(n, *shape)``.
        alphas: by step ``(n, R, *shape)``.
        betas: by step ``(n, R, *shape)``.
    """

    case: Tensor
    bound: Tensor
    signs: ByStep
    alphas: ByStep
    betas: ByStep

    def __len__(self) -> int:
        return len(self.case)

    def take(self, rows: Tensor) -> Parts:
        """Returns some of the parts."""
        maps = ({step: value[rows] for step, value in each.items()} for each in (self.signs, self.alphas, self.betas))
        return Parts(self.case[rows], self.bound[rows], *maps)

    def and_(self, other: Parts) -> Parts:
        """Returns these and others."""
        maps = (
            {step: torch.cat([mine[step], theirs[step]]) for step in mine}
            for mine, theirs in ((self.signs, other.signs), (self.alphas, other.alphas), (self.betas, other.betas))
        )
        return Parts(torch.cat([self.case, other.case]), torch.cat([self.bound, other.bound]), *maps)


@dataclass(slots=True)
class Search:
    """One search: the network between its lines, what is proven, the least excess that was seen, what is left."""

    problem: Problem
    net: Lined
    witness: Witness | None
    budget: Budget
    effort: Effort
    proven: float = torch.inf
    seen: float = torch.inf
    open_leaves: int = 0
    turns: int = 0
    eager: bool = True
    found: Settled | None = None
    root: Parts | None = None
    left: Parts | None = None

    @property
    def rows(self) -> Tensor:
        """Of the cases."""
        return self.problem.rows

    @property
    def goal(self) -> float:
        """A part whose bound is above this is settled."""
        return 0.0 if self.effort.gap is None else self.seen - self.effort.gap

    def over(self, bound: Tensor, case: Tensor) -> Tensor:
        """How far the rows' bounds ``(n, R)`` are above their limits, the best row of each part ``(n,)``."""
        return self.problem.over(bound, case).amax(1)

    def enough(self, case: Tensor) -> Tensor:
        """The bounds of rows that settle a part."""
        limits = self.problem.limits[case]
        return limits + limits.abs() * 2.0**-50 + self.goal

    def run(self, todo: Parts | None = None, most: int | None = None) -> Settled:
        """Searches parts, or the whole box; leaves what is open in `left` after so many parts or the budget."""
        todo, begun, self.left = self.rooted() if todo is None else todo, self.budget.used, None
        while self.found is None:
            done = todo.bound > self.goal
            if bool(done.any()):
                self.proven = min(self.proven, float(todo.bound[done].amin()))
                todo = todo.take((~done).nonzero()[:, 0])
            if not len(todo):
                why = f"{self.budget.used} parts" + (f", {self.open_leaves} leaves stay open" * bool(self.open_leaves))
                return Settled(self.proven, None, -1, why)
            if self.budget.spent or (most is not None and self.budget.used - begun >= most):
                self.left = todo
                least = min(self.proven, float(todo.bound.amin()))
                why = f"{len(todo)} of {self.budget.used} parts are open"
                return Settled(least, None, -1, why, spent=True)
            order = todo.bound.argsort(stable=True)
            size = self.size()
            part, todo = todo.take(order[:size]), todo.take(order[size:])
            todo = todo.and_(self.branched(part, len(todo)))
        return self.found

    def size(self) -> int:
        """How many parts go together."""
        values = sum(self.net.unstable(step).numel() for step in self.net.relus) + 1
        return max(1, min(self.effort.batch, HELD // (8 * values * self.rows.shape[1])))

    def rooted(self) -> Parts:
        """The whole box, a part a case, with slopes raised."""
        cases, most = self.rows.shape[:2]
        signs, alphas, betas = {}, {}, {}
        for step in self.net.relus:
            shape = self.net.relaxed.graph.steps[step].shape
            lines = self.net.relaxed.lines[step]
            assert isinstance(lines, Lines)
            signs[step] = torch.zeros(cases, *shape, dtype=torch.int8)
            alphas[step] = lines.lower.slope[:, None].to(self.rows.dtype).expand(cases, most, *shape).clone()
            betas[step] = self.rows.new_zeros(cases, most, *shape)
        parts = Parts(torch.arange(cases), torch.full((cases,), -torch.inf, dtype=torch.float64), signs, alphas, betas)
        relaxed = self.net.split(signs)
        self.budget.charge(cases, 0, "parts")
        self.attacked(self.net.corner(self.net.pull(relaxed, self.rows, signs, alphas, betas)), parts.case)
        if self.found is not None:
            return parts
        best = raised(
            self.net, relaxed, self.rows, signs, alphas, betas,
            steps=self.effort.root, rate=0.2, enough=self.enough(parts.case),
        )  # fmt: skip
        self.root = self.settled(parts, best)
        return self.root

    def again(self, parts: Parts) -> Parts:
        """The parts of a wider net with slopes and multipliers raised between the lines of this one."""
        signs, alphas, betas = (
            {step: value for step, value in each.items() if step in self.net.relus}
            for each in (parts.signs, parts.alphas, parts.betas)
        )
        parts = Parts(parts.case, parts.bound, signs, alphas, betas)
        self.budget.charge(len(parts), 0, "parts")
        best = raised(
            self.net, self.net.split(signs), self.rows[parts.case], signs, alphas, betas,
            steps=self.effort.steps, enough=self.enough(parts.case),
        )  # fmt: skip
        return self.settled(parts, best)

    def attacked(self, corners: Tensor, case: Tensor) -> None:
        """Descends from the centre and from the corners ``(cases, R, *shape)``."""
        self.tried(corners, case)
        if self.witness is None or not self.effort.attack or self.effort.gap is not None or self.found is not None:
            return
        centre = self.net.start.lower.lerp(self.net.start.upper, 0.5).expand(len(case), *corners.shape[2:])
        points = torch.cat([corners.flatten(0, 1), centre])
        owner = torch.cat([case.repeat_interleave(corners.shape[1]), case])
        self.found = descended(self.problem, self.witness, self.budget, points, owner)

    def branched(self, parts: Parts, waiting: int) -> Parts:
        """Both halves of each part, with their bounds raised; leaves are settled by a linear program."""
        relaxed = self.net.split(parts.signs)
        pulled = self.net.pull(relaxed, self.rows[parts.case], parts.signs, parts.alphas, parts.betas)
        choice = chosen(self.net, relaxed, pulled, parts, self.rows[parts.case], self.problem.limits[parts.case])
        if len(choice.leaves):
            self.leaves(parts.take(choice.leaves))
            parts = parts.take(choice.inner)
        if not len(parts) or self.found is not None:
            return parts.take(torch.arange(0))
        halves = _halves(parts, choice)
        relaxed = self.net.split(halves.signs)
        best = raised(
            self.net, relaxed, self.rows[halves.case], halves.signs, halves.alphas, halves.betas,
            steps=self.effort.steps, enough=self.enough(halves.case),
        )  # fmt: skip
        self.budget.charge(len(halves), waiting, "parts")
        return self.settled(halves, best)

    def settled(self, parts: Parts, best: Raised) -> Parts:
        """The parts with what the ascent found; a half is never worse than its whole. Tries their worst points."""
        bound = torch.maximum(self.over(best.bound, parts.case), parts.bound)
        corners = self.net.corner(best.pulled)
        self.tried(corners, parts.case)
        self.turns += 1
        if (
            self.eager
            and self.turns % EVERY == 0
            and self.witness is not None
            and self.found is None
            and self.effort.gap is None
        ):
            worst = bound.argsort(stable=True)[:EAGER]
            points, owner = corners[worst].flatten(0, 1), parts.case[worst].repeat_interleave(corners.shape[1])
            self.found = descended(self.problem, self.witness, self.budget, points, owner)
        alphas = parts.alphas | best.alphas
        betas = {step: best.betas.get(step, value) for step, value in parts.betas.items()}
        return Parts(parts.case, bound, parts.signs, alphas, betas)

    def tried(self, points: Tensor, case: Tensor) -> None:
        """Runs the network on points ``(n, R, *shape)``: a counterexample ends the search."""
        if self.witness is None:
            return
        flat, owner = self.problem.inside(points.flatten(0, 1)), case.repeat_interleave(points.shape[1])
        outputs = self.problem.net(flat)
        for index in sorted(set(owner.tolist())):
            own = owner == index
            excess = self.problem.cases[index].excess(outputs[own])
            self.seen = min(self.seen, float(excess.amin()))
            if self.effort.gap is None and bool((excess <= 0).any()):
                place = self.witness.first(self.problem.cases[index], flat[own])
                if place is not None:
                    why = f"the worst point of a part breaks it, after {self.budget.used}"
                    self.found = Settled(-torch.inf, flat[own][place : place + 1], index, why)
                    return

    def leaves(self, parts: Parts) -> None:
        """Settles parts without a neuron left to split: there the network is affine, and a linear program is exact."""
        for index in range(len(parts)):
            part = parts.take(torch.tensor([index]))
            bound, points = at_leaf(self.net, self.rows[part.case], part.signs, self.budget.left)
            value = max(float(self.over(bound, part.case)), float(part.bound))
            self.tried(points, part.case)
            if self.found is not None:
                return
            self.proven = min(self.proven, value)
            self.open_leaves += not value > self.goal


def _halves(parts: Parts, choice: Choice) -> Parts:
    """Each part twice: first with the chosen input at least 0, then with it at most 0."""
    twice = torch.arange(len(parts)).repeat(2)
    halves = parts.take(twice)
    sign = torch.ones(len(twice), dtype=torch.int8)
    sign[len(parts) :] = -1
    for step in halves.signs:
        here = (choice.step == step).repeat(2).nonzero()[:, 0]
        if len(here):
            flat = halves.signs[step].flatten(1)
            flat[here, choice.place.repeat(2)[here]] = sign[here]
            halves.signs[step] = flat.reshape(halves.signs[step].shape)
    return halves
