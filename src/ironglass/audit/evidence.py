"""Gathering: runs the plan's steps through the runner, keeps what came of each, and stops where a budget says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from ironglass.core.diagnosis import Diagnosis
from ironglass.core.errors import AccessError, InputError, MethodFailed
from ironglass.core.findings import Limit
from ironglass.core.method import get
from ironglass.core.results import AttackResult, Attribution, Certificate, Estimate, Score, Smoothed
from ironglass.core.values import Avoid, Norm, Threat
from ironglass.run import Runner

from .planning import Plan, Step


@dataclass(slots=True)
class Evidence:
    """All results of an audit, by method.

    ``attacks`` have a row a sample, and ``tried`` says which of them the attack was run on; ``minima`` are of the
    samples that are labelled right, ``diagnoses`` of those ``examined``; a curve's part is the samples tried at one
    radius, and what came of them; ``proofs`` likewise, of the certificate that proves most.
    """

    x: Tensor
    y: Tensor
    outputs: Tensor
    attacks: dict[str, AttackResult] = field(default_factory=dict)
    tried: dict[str, Tensor] = field(default_factory=dict)
    minima: dict[Norm, dict[str, AttackResult]] = field(default_factory=dict)
    curve: list[tuple[Tensor, AttackResult]] = field(default_factory=list)
    control: list[AttackResult] = field(default_factory=list)
    examined: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    diagnoses: dict[str, Diagnosis] = field(default_factory=dict)
    certificates: dict[str, Certificate] = field(default_factory=dict)
    proofs: list[tuple[Tensor, Certificate]] = field(default_factory=list)
    estimates: dict[str, Estimate] = field(default_factory=dict)
    smoothed: dict[str, Smoothed] = field(default_factory=dict)
    explained: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    attributions: dict[str, Attribution] = field(default_factory=dict)
    scores: dict[tuple[str, str], Score] = field(default_factory=dict)
    limits: list[Limit] = field(default_factory=list)
    out_of_time: bool = False
    interrupted: bool = False

    @property
    def labels(self) -> Tensor:
        """The model's decisions ``(N,)``."""
        return self.outputs.argmax(1)

    @property
    def correct(self) -> Tensor:
        """Whether the model decides as the samples are labelled ``(N,)``."""
        return self.labels == self.y

    @property
    def survives(self) -> Tensor:
        """Whether a sample is right and no attack breaks it ``(N,)``."""
        alive = self.correct.clone()
        for result in self.attacks.values():
            alive &= ~result.success
        return alive

    @property
    def holds(self) -> Tensor:
        """Whether a sample is right and nothing at all breaks it ``(N,)``: the worst case, with the battery's."""
        alive = self.survives
        for diagnosis in self.diagnoses.values():
            alive[self.examined] &= ~diagnosis.broken
        return alive

    def least(self, norm: Norm) -> Tensor:
        """The length of the smallest change found of each sample ``(N,)``; 0 where it is wrong already, inf if none."""
        smallest = torch.where(self.correct, torch.inf, 0.0).double()
        for result in self.minima.get(norm, {}).values():
            length = torch.where(result.success, result.distance.double(), torch.inf)
            smallest[self.correct] = smallest[self.correct].minimum(length)
        return smallest


def spread(result: AttackResult, rows: Tensor, found: Evidence) -> AttackResult:
    """Returns the result with a row a sample: those not among ``rows`` were not tried, and stay as they are."""

    def over(part: Tensor, rest: Tensor) -> Tensor:
        whole = rest.to(part.dtype).clone()
        whole[rows] = part
        return whole

    none = torch.zeros(len(found.y), device=found.y.device)
    return replace(
        result,
        x=found.x,
        adversarial=over(result.adversarial, found.x),
        success=over(result.success, none),
        distance=over(result.distance, none),
        queries=over(result.queries, none),
        first_success=over(result.first_success, none - 1),
        before=over(result.before, found.outputs),
        after=over(result.after, found.outputs),
        goal=over(result.goal, found.y),
    )


class _OutOfTime(Exception):
    """The audit's time is spent."""


class Gatherer:
    """Runs a plan.

    Args:
        runner: of the model.
        plan: what to do.
        x: samples.
        y: their labels.
        seconds: time budget; None for none. It is looked at between methods, not inside one.
        tick: told ``(what, done, in all)`` before each step.
    """

    def __init__(
        self,
        runner: Runner,
        plan: Plan,
        x: Tensor,
        y: Tensor,
        seconds: float | None = None,
        tick: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._runner, self._plan, self._tick = runner, plan, tick
        self._deadline = None if seconds is None else monotonic() + seconds
        self._done, self._total = 0, plan.count
        self.evidence = Evidence(x, y, runner.model.outputs(x), limits=list(plan.limits))

    def gather(self) -> Evidence:
        """Runs every step. A method that fails is noted and the rest goes on.

        Raises:
            MethodFailed: if something is proven and broken at once, for then we have a bug.
        """
        found, threat = self.evidence, self._plan.threat
        try:
            self._attack()
            self._curves()
            self._minima()
            self._examine()
            for step in self._plan.of("certify"):
                self._keep(found.certificates, step.name, step, found.x, found.y, threat)
            self._prove()
            for step in self._plan.of("estimate"):
                self._keep(found.estimates, step.name, step, found.x, found.y, threat)
            for step in self._plan.of("smoothed"):
                self._keep(found.smoothed, step.name, step, found.x, found.y, threat)
            self._contradiction()
            self._explain()
        except _OutOfTime:
            found.out_of_time = True
            self._note("The rest of the plan", "the time budget is spent")
        except KeyboardInterrupt:
            found.interrupted = True
            self._note("The rest of the plan", "interrupted; the same command takes it up again")
        return found

    def _keep(self, kept: dict[Any, Any], key: object, step: Step, *args: Any) -> None:
        """Runs one step and keeps its result, or notes why there is none."""
        if self._tick is not None:
            self._tick(step.title, self._done, self._total)
        self._done += 1
        if self._deadline is not None and monotonic() > self._deadline:
            raise _OutOfTime
        try:
            kept[key] = self._runner(get(step.name), *args, **step.options)
        except (AccessError, InputError) as error:
            self._note(step.title, f"refused: {error.message}")
        except MethodFailed as error:
            self._note(step.title, error.message, failed=True)

    def _note(self, what: str, why: str, failed: bool = False) -> None:
        self.evidence.limits.append(Limit(what=what, why=why, failed=failed))

    def _attack(self) -> None:
        """Runs the attacks, cheap ones first and each on what is still right: so the worst case a sample costs least.

        Every level of access starts afresh, and so does the control: each has a tale of its own to tell.
        """
        found, plan = self.evidence, self._plan
        right = found.correct.nonzero()[:, 0]
        for steps in plan.cascades():
            alive = right
            for step in steps:
                part: dict[str, AttackResult] = {}
                if len(alive):
                    self._keep(part, step.name, step, found.x[alive], Avoid(found.y[alive]), plan.threat)
                for name, result in part.items():
                    found.attacks[name] = spread(result, alive, found)
                    found.tried[name] = torch.isin(torch.arange(len(found.y)), alive)
                    alive = alive[~result.success]

    def _minima(self) -> None:
        """Looks for the smallest change of every sample that is labelled right, in each norm."""
        found = self.evidence
        right = found.correct.nonzero()[:, 0]
        for norm, steps in self._plan.minima.items():
            kept = found.minima.setdefault(norm, {})
            for step in steps if len(right) else ():
                self._keep(kept, step.name, step, found.x[right], Avoid(found.y[right]), Threat(norm, float("inf")))

    def _curves(self) -> None:
        """Draws accuracy against eps: what a smaller radius breaks, a larger one breaks too, and is not tried again."""
        plan, found = self._plan, self.evidence
        steps = {step.name: step for step in plan.of("attack")}
        if plan.curve is None:
            return
        right = found.correct.nonzero()[:, 0]
        alive = right
        for radius in plan.radii:
            threat = Threat(plan.threat.norm, radius)
            part: dict[str, AttackResult] = {}
            for name, rows in ((plan.curve, alive), (plan.suite.control, right)):
                if name in steps and len(rows):
                    self._keep(part, name, steps[name], found.x[rows], Avoid(found.y[rows]), threat)
            if plan.curve in part:
                found.curve.append((alive, part[plan.curve]))
                alive = alive[~part[plan.curve].success]
            if plan.suite.control in part:
                found.control.append(part[plan.suite.control])

    def _examine(self) -> None:
        """Asks of the first samples that are labelled right whether what the attacks say can be believed."""
        found = self.evidence
        right = found.correct.nonzero()[:, 0]
        for step in self._plan.of("diagnose") if len(right) else ():
            found.examined = right[: step.samples]
            x, y = found.x[found.examined], found.y[found.examined]
            self._keep(found.diagnoses, step.name, step, x, y, self._plan.threat)

    def _prove(self) -> None:
        """Looks how far the certificate that proves most reaches: what fails is not tried at a larger radius."""
        found, plan = self.evidence, self._plan
        if not found.certificates:
            return
        best = max(found.certificates, key=lambda name: int(found.certificates[name].verified.sum()))
        step = next(step for step in plan.of("certify") if step.name == best)
        alive = found.correct.nonzero()[:, 0]
        for radius in plan.radii:
            part: dict[str, Certificate] = {}
            if len(alive):
                threat = Threat(plan.threat.norm, radius)
                self._keep(part, best, step, found.x[alive], found.y[alive], threat)
            for certificate in part.values():
                found.proofs.append((alive, certificate))
                alive = alive[certificate.verified]

    def _contradiction(self) -> None:
        for name, certificate in self.evidence.certificates.items():
            for attack, result in self.evidence.attacks.items():
                both = (certificate.verified & result.success & self.evidence.correct).nonzero()[:, 0].tolist()
                if both:
                    raise MethodFailed(
                        f"{name} proves samples {both[:5]} safe and {attack} breaks them: one of the two is wrong, "
                        "and that is a bug of Ironglass",
                        "please report it with this model and these samples; trust neither result",
                    )

    def _explain(self) -> None:
        """Explains the worst and the best cases, and tests the explanations."""
        found = self.evidence
        explains = self._plan.of("explain")
        if not explains:
            return
        confidence = found.outputs.softmax(1).gather(1, found.y[:, None])[:, 0]
        order = confidence.argsort(stable=True).tolist()
        half = explains[0].samples
        ends = [order[i // 2] if i % 2 == 0 else order[-1 - i // 2] for i in range(len(order))]
        found.explained = torch.tensor(sorted(ends[:half]), dtype=torch.long)
        x = found.x[found.explained]
        for step in explains:
            self._keep(found.attributions, step.name, step, x, None)
        for step in self._plan.of("metric"):
            for explained in explains:
                attribution = found.attributions.get(explained.name)
                if attribution is None:
                    continue
                passes = step.passes * (explained.passes / 2 if "explains again" in step.card.tags else 1)
                if passes > self._plan.suite.max_passes:
                    self._note(f"{step.title} of {explained.title}", f"expects {passes:,.0f} passes a sample")
                    continue
                self._keep(found.scores, (step.name, explained.name), step, attribution)
