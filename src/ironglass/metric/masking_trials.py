"""Attacks as evidence: the battery's own searches, judged on fresh draws where the model is random."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model, Rows
from ironglass.core.values import Avoid, LossName, Threat
from ironglass.ops import lp
from ironglass.ops.ascent import ascend
from ironglass.ops.balls import sample_ball
from ironglass.ops.restarts import falling, restarted
from ironglass.ops.windows import window_search


class _Onward(Avoid):
    """Leaves the label and goes on: examples that are to transfer must not stop at the first boundary."""

    def reached(self, scores: Tensor, rows: Rows = slice(None)) -> Tensor:
        """Returns False: nothing ends the climb before its last step."""
        return torch.zeros(len(scores), dtype=torch.bool, device=scores.device)


class Trials:
    """Runs searches on some of the samples; each says which samples it breaks ``(N,)``.

    ``worst`` are the inputs within the threat that broke a sample, or the sample itself; ``silent`` says where a search
    met an input that fooled the model and returned one that does not.

    Args:
        model: of the N samples.
        x: the samples ``(N, *shape)``.
        y: their labels.
        threat: norm, radius and mask.
        random: whether a sample's scores differ from call to call ``(N,)``.
        draws: fresh calls that judge a random sample: more than half of them must be fooled.
        steps: of a gradient attack.
        restarts: of a gradient attack.
        seed: of the random starts.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        random: Tensor,
        draws: int,
        steps: int,
        restarts: int,
        seed: int,
    ) -> None:
        self._model, self._x, self._goal, self.threat = model, x, Avoid(y), threat
        self._random, self._draws, self.steps, self.restarts, self._seed = random, draws, steps, restarts, seed
        self.worst, self.broken, self.silent = x.clone(), torch.zeros_like(random), torch.zeros_like(random)

    def fooled(self, x: Tensor, rows: Tensor) -> Tensor:
        """Returns whether inputs fool the model, at more than half of the draws where it is random ``(n,)``."""
        votes = self._goal.reached(self._model.scores(x, rows), rows).long()
        again = self._random[rows].nonzero()[:, 0]
        for _ in range(self._draws - 1 if len(again) else 0):
            votes[again] += self._goal.reached(self._model.scores(x[again], rows[again]), rows[again])
        return votes * 2 > torch.where(self._random[rows], self._draws, 1)

    def gradient(
        self,
        rows: Tensor,
        loss: LossName = "ce",
        *,
        threat: Threat | None = None,
        steps: int | None = None,
        restarts: int | None = None,
        stream: int = 0,
    ) -> Tensor:
        """Climbs a loss from random starts; ``stream`` chooses other starts."""
        if not len(rows):
            return torch.zeros_like(self._random)
        threat, steps = threat or self.threat, steps or self.steps
        part, goal = threat.take(rows), self._goal.take(rows)
        session = self._model.take(rows)
        climb = restarted(
            session,
            self._x[rows],
            goal,
            part,
            sizes=falling(threat.eps, steps),
            loss=loss,
            restarts=restarts or self.restarts,
            draws=session.draws(self._seed + stream),
        )
        return self._judged(rows, climb.point, climb.margin == torch.inf, keep=threat.eps <= self.threat.eps)

    def single(self, rows: Tensor) -> Tensor:
        """Takes one step along the cross-entropy's gradient, as long as the radius."""
        if not len(rows):
            return torch.zeros_like(self._random)
        x, part, goal = self._x[rows], self.threat.take(rows), self._goal.take(rows)
        step = self._model.take(rows).value_and_grad(x, goal.loss("ce"))
        return self._judged(
            rows, lp.move(x, lp.maximize(step.grad, x, part, self._model.bounds), part, self._model.bounds)
        )

    def search(self, rows: Tensor, queries: int) -> Tensor:
        """Searches at random with scores alone."""
        if not len(rows):
            return torch.zeros_like(self._random)
        model, goal, part = self._model.take(rows), self._goal.take(rows), self.threat.take(rows)
        point = window_search(model, self._x[rows], goal, part, max_queries=queries, seed=self._seed)
        return self._judged(rows, point)

    def noise(self, rows: Tensor, tries: int) -> Tensor:
        """Draws from the ball, each draw on the samples that are left."""
        found = torch.zeros_like(self._random)
        draws = self._model.draws(self._seed)
        for _ in range(tries):
            rows = rows[~found[rows]]
            if not len(rows):
                break
            point = sample_ball(draws, self._x[rows], self.threat.take(rows), self._model.bounds, rows)
            found |= self._judged(rows, point)
        return found

    def transfer(self, rows: Tensor, surrogate: Model) -> Tensor:
        """Makes examples on another model of the same N samples, all the way, and tries them here."""
        if not len(rows):
            return torch.zeros_like(self._random)
        x, part = self._x[rows], self.threat.take(rows)
        goal = _Onward(self._goal.labels[rows])
        sizes = falling(self.threat.eps, self.steps)
        climb = ascend(surrogate.take(rows), x, goal, part, sizes=sizes, loss=goal.loss("margin"))
        return self._judged(rows, climb.point)

    def trace(self, rows: Tensor) -> Tensor:
        """Returns the cross-entropy at each step of one more climb ``(steps, n)``; that of a step not taken is NaN."""
        if not len(rows):
            return self._x.new_zeros(self.steps, 0)
        goal, part = self._goal.take(rows), self.threat.take(rows)
        seen: list[tuple[Tensor, Tensor]] = []
        loss = goal.loss("ce")
        ascend(
            self._model.take(rows),
            self._x[rows],
            goal,
            part,
            sizes=falling(self.threat.eps, self.steps),
            loss=_recorded(loss, len(rows), seen),
        )
        steps = self._x.new_full((self.steps, len(rows)), torch.nan)
        count = torch.zeros(len(rows), dtype=torch.long, device=self._x.device)
        for which, value in seen:
            steps[count[which], which] = value.to(steps.dtype)
            count[which] += 1
        return steps

    def _judged(self, rows: Tensor, point: Tensor, claimed: Tensor | None = None, keep: bool = True) -> Tensor:
        """Returns whether the points break their samples, and keeps the first of each that does ``(N,)``."""
        found = torch.zeros_like(self._random)
        won = self.fooled(point, rows)
        found[rows] = won
        if claimed is not None:
            self.silent[rows] |= claimed & ~won
        if keep:
            new = won & ~self.broken[rows]
            self.worst[rows[new]] = point[new]
            self.broken[rows] |= won
        return found


def _recorded(loss: Loss, count: int, seen: list[tuple[Tensor, Tensor]]) -> Loss:
    """Returns the loss, which keeps what it gives and for which of the ``count`` samples."""

    def watched(scores: Tensor, rows: Rows) -> Tensor:
        value = loss(scores, rows)
        seen.append((torch.arange(count, device=value.device)[rows], value.detach()))
        return value

    return watched
