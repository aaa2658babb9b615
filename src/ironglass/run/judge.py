"""The judge: runs a bare method on one batch, and decides itself what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from time import perf_counter
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from ironglass.core.access import Rows
from ironglass.core.catalogue import FINISH, LADDER
from ironglass.core.diagnosis import Diagnosis, Examined
from ironglass.core.errors import AccessError, BudgetExceeded, InputError, IronglassError, MethodFailed
from ironglass.core.method import Method
from ironglass.core.results import (
    AttackResult,
    Attribution,
    Certificate,
    Cost,
    Estimate,
    Map,
    Proof,
    Result,
    Score,
    Smoothed,
)
from ironglass.core.values import Avoid, Goal, Threat, finite
from ironglass.models.adapter import Adapter
from ironglass.models.meter import Meter
from ironglass.models.session import Session
from ironglass.ops import lp
from ironglass.ops.polish import polish
from ironglass.ops.quantize import check_grid, quantize

R = TypeVar("R", bound=Result)


@dataclass(frozen=True, slots=True)
class Job:
    """One method on one shard: everything a worker needs but the model.

    ``inputs`` are what the method takes between the samples and its options: goal and threat, target, labels and
    threat, or an attribution.
    """

    method: Method[Any]
    x: Tensor
    inputs: tuple[Any, ...]
    options: dict[str, Any]
    max_queries: int | None = None

    def take(self, rows: slice) -> Job:
        """Returns the job on those samples."""
        return replace(
            self,
            x=self.x[rows],
            inputs=tuple(_take(value, rows) for value in self.inputs),
            options=options_of(self.method, self.options, rows),
        )


def options_of(method: Method[Any], options: dict[str, Any], rows: Rows) -> dict[str, Any]:
    """Returns the options of those samples."""
    each = per_sample(method)
    return {name: value[rows] if name in each and value is not None else value for name, value in options.items()}


def per_sample(method: Method[Any]) -> set[str]:
    """Returns the names of the options that have a row a sample."""
    return {option.name for option in method.card.options if "PerSample" in option.type}


def _take(value: Any, rows: Rows) -> Any:
    if isinstance(value, Goal | Threat):
        return value.take(rows)
    if isinstance(value, Result):
        return part(value, rows)
    return value[rows]


def part(result: R, rows: Rows) -> R:
    """Returns the result of those samples."""
    changes: dict[str, Any] = {
        f.name: value[rows] for f in fields(result) if isinstance(value := getattr(result, f.name), Tensor)
    }
    if isinstance(result, Attribution):
        changes["extras"] = {name: extra[rows] for name, extra in result.extras.items()}
    return replace(result, **changes)


def join(results: list[Result]) -> Result:
    """Returns the results of the shards as one."""
    first = results[0]
    if len(results) == 1:
        return first
    changes: dict[str, Any] = {
        f.name: torch.cat([getattr(result, f.name) for result in results])
        for f in fields(first)
        if isinstance(getattr(first, f.name), Tensor)
    }
    if isinstance(first, Attribution):
        parts = [cast(Attribution, result).extras for result in results]
        changes["extras"] = {name: torch.cat([part[name] for part in parts]) for name in first.extras}
    if (
        isinstance(first, AttackResult | Certificate | Estimate | Smoothed | Diagnosis)
        and first.threat.mask is not None
    ):
        masks = [cast(AttackResult, result).threat.mask for result in results]
        if any(mask is not None and len(mask) > 1 for mask in masks):
            changes["threat"] = replace(first.threat, mask=torch.cat([cast(Tensor, mask) for mask in masks]))
    cost = sum((result.cost for result in results), Cost())
    return replace(first, cost=cost, partial=any(result.partial for result in results), **changes)


def judge(model: Adapter, job: Job) -> Result:
    """Runs one job and judges it.

    Raises:
        MethodFailed: if the method raises, or returns what it must not.
        InputError: if it refuses the request.
    """
    work: dict[str, Callable[[Adapter, Job], Result]] = {
        "attack": _attack,
        "explain": _explain,
        "certify": _certify,
        "estimate": _estimate,
        "smoothed": _smoothed,
        "metric": _metric,
        "diagnose": _diagnose,
    }
    card = job.method.card
    start = perf_counter()
    try:
        result = work[card.decorator](model, job)
    except (IronglassError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise MethodFailed(f"{card.name} failed: {type(error).__name__}: {error}") from error
    return replace(result, cost=replace(result.cost, seconds=perf_counter() - start))


def _attack(model: Adapter, job: Job) -> AttackResult:
    goal, threat = cast(tuple[Goal, Threat], job.inputs)
    ours, meter = model.session(job.x, goal=goal, max_queries=job.max_queries)
    access = job.method.card.access_with(job.options)
    session = model.open(job.x, meter, access)
    meter.within = _within(job.x, threat)
    own, finish = _options(job)
    before = _outputs(model, ours, job.x)
    adversarial, partial = job.x.clone(), False
    unrounded = goal.reached(before) if finish.quantize else None
    rows = (~goal.reached(before)).nonzero()[:, 0]
    if len(rows):
        x, limits = job.x[rows], threat.take(rows)
        try:
            own = options_of(job.method, own, rows)
            found = job.method.raw(session.take(rows), x, goal.take(rows), limits, **own)
        except BudgetExceeded:
            found, partial = meter.best[rows], True
        found = lp.project(_like(found, x, job), x, limits, model.bounds)
        if finish.polish or finish.quantize:
            part, wish = ours.take(rows), goal.take(rows)
            gradients = LADDER.index(access) >= LADDER.index("gradient")
            if finish.polish:  # a method that sees no gradients gets the line search alone
                found = polish(part, x, found, wish, limits, steps=finish.polish if gradients else 0)
            if unrounded is not None:
                unrounded[rows] = model.verdict(x, found, wish)[1] > 0.5
                found = quantize(part, x, found, wish, limits, gradients=gradients)
        adversarial[rows] = found
    after, share = before.clone(), goal.reached(before).double()
    judged = torch.arange(len(job.x), device=job.x.device) if model.stochastic else rows
    if len(judged):
        scores, share[judged] = model.verdict(job.x[judged], adversarial[judged], goal.take(judged))
        after[judged] = scores.to(after.dtype)
    return AttackResult(
        x=job.x,
        method=job.method.card.name,
        options=job.options,
        cost=meter.cost,
        partial=partial,
        adversarial=adversarial,
        success=share > 0.5,
        distance=lp.distance(adversarial, job.x, threat, model.bounds),
        queries=meter.queries,
        first_success=meter.first_success,
        before=before,
        after=after,
        goal=goal.labels,
        targeted=goal.targeted,
        threat=threat,
        seed=job.options.get("seed"),
        unrounded=unrounded,
        share=share if model.stochastic else None,
    )


def _within(x: Tensor, threat: Threat) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Returns which of a method's inputs lie in the ball, so that a probe from outside is no success.

    In ``wasserstein`` that is a linear program a point, and what a method asks about is taken as it is.
    """
    if threat.eps == float("inf") or threat.norm == "wasserstein":
        return None
    most = threat.eps * (1 + 1e-5)
    return lambda points, ids: lp.norm(points - x[ids], threat.norm) <= most


class Finish(NamedTuple):
    """What the judge does to an attack's points before it judges them."""

    polish: int
    quantize: str | None


def _options(job: Job) -> tuple[dict[str, Any], Finish]:
    """Returns the method's own options, and what every attack can be asked besides."""
    own = dict(job.options)
    return own, Finish(*(own.pop(option.name) for option in FINISH))


def check_finish(options: Mapping[str, Any], x: Tensor, threat: Threat, model: Adapter) -> None:
    """Checks the options that every attack has.

    Raises:
        AccessError: if the model gives labels alone, for both go by the margin of the scores.
        InputError: if one has no such value, the threat's norm has none, or the samples are not on the grid.
    """
    rounds, quantized = options["polish"], options["quantize"]
    if not isinstance(rounds, int) or rounds < 0:
        raise InputError(f"polish={rounds!r} is no number of rounds", "give 0 for none, or e.g. 3")
    if quantized not in (None, "uint8"):
        raise InputError(f"quantize={quantized!r} is not known", "give 'uint8', or None to leave values as they are")
    name = "polish" if rounds else "quantize"
    if model.access == "labels" and (rounds or quantized):
        raise AccessError(f"{name} needs scores, this model gives labels", f"leave {name} at its default")
    if threat.norm == "wasserstein" and (rounds or quantized):
        why = "moves values one by one, and a Wasserstein threat keeps the mass of the picture"
        raise InputError(f"{name} {why}", f"leave {name} at its default")
    if quantized:
        check_grid(x, model.bounds)


def _outputs(model: Adapter, session: Session, x: Tensor) -> Tensor:
    """The first query of every attack: is the goal reached already? Charged like any other."""
    if model.access == "labels":
        return torch.nn.functional.one_hot(session.labels(x), model.classes).to(x.dtype)
    return session.scores(x)


def _open(model: Adapter, job: Job) -> tuple[Session, Meter]:
    """Returns the model as the method may see it, and its ledger."""
    return model.session(job.x, job.method.card.access, None, job.max_queries)


def _explain(model: Adapter, job: Job) -> Attribution:
    (target,) = job.inputs
    session, meter = _open(model, job)
    found = job.method.raw(session, job.x, target, **job.options)
    found = found if isinstance(found, Map) else Map(found)
    values = found.values
    if len(values) != len(job.x) or not finite(values):
        raise MethodFailed(f"{job.method.card.name} returned a map of shape {tuple(values.shape)}, or one not finite")
    for name, extra in found.extras.items():
        if len(extra) != len(job.x):
            raise MethodFailed(f"{job.method.card.name} gave {len(extra)} rows of '{name}' for {len(job.x)} samples")
    return Attribution(
        x=job.x,
        method=job.method.card.name,
        options=job.options,
        cost=meter.cost,
        values=values.to(job.x.dtype),
        target=target,
        error=found.error,
        extras=found.extras,
        seed=job.options.get("seed"),
    )


def _certify(model: Adapter, job: Job) -> Certificate:
    y, threat = job.inputs
    session, meter = _open(model, job)
    found = job.method.raw(session, job.x, y, threat, **job.options)
    margin = found.margin if isinstance(found, Proof) else found
    proven = margin.isfinite() & (margin > 0)
    broken = counterexample = None
    if isinstance(found, Proof):
        counterexample = lp.project(_like(found.counterexample, job.x, job), job.x, threat, model.bounds)
        broken = model.outputs(counterexample).argmax(1) != y
        both = (proven & broken).nonzero()[:, 0].tolist()
        if both:
            raise MethodFailed(
                f"{job.method.card.name} proves samples {both[:5]} safe and has a point that breaks them: one of the "
                "two is wrong, and that is a bug of Ironglass",
                "please report it with this model and these samples; trust neither result",
            )
    return Certificate(
        x=job.x,
        method=job.method.card.name,
        options=job.options,
        cost=meter.cost,
        verified=proven,
        margin=margin,
        y=y,
        threat=threat,
        falsified=broken,
        counterexample=counterexample,
    )


def _estimate(model: Adapter, job: Job) -> Estimate:
    y, threat = job.inputs
    session, meter = _open(model, job)
    radius, quality = job.method.raw(session, job.x, y, threat, **job.options)
    return Estimate(
        x=job.x,
        method=job.method.card.name,
        options=job.options,
        cost=meter.cost,
        radius=radius,
        quality=quality,
        y=y,
        threat=threat,
        seed=job.options.get("seed"),
    )


def _smoothed(model: Adapter, job: Job) -> Smoothed:
    y, threat = job.inputs
    session, meter = _open(model, job)
    decision, radius, confidence = job.method.raw(session, job.x, y, threat, **job.options)
    return Smoothed(
        x=job.x,
        method=job.method.card.name,
        options=job.options,
        cost=meter.cost,
        decision=decision,
        radius=radius,
        confidence=confidence,
        y=y,
        threat=threat,
        seed=job.options.get("seed"),
    )


def _metric(model: Adapter, job: Job) -> Score:
    (attribution,) = job.inputs
    session, meter = _open(model, job)
    score = cast(Score, job.method.raw(session, attribution, **job.options))
    return replace(score, cost=meter.cost, options=job.options)


def _diagnose(model: Adapter, job: Job) -> Diagnosis:
    y, threat = job.inputs
    session, meter = _open(model, job)
    found = cast(Examined, job.method.raw(session, job.x, y, threat, **job.options))
    if found.evidence.shape != (len(job.x), len(found.checks)):
        given = tuple(found.evidence.shape)
        raise MethodFailed(f"{job.method.card.name} returned evidence {given} of {len(found.checks)} checks")
    adversarial = lp.project(_like(found.adversarial, job.x, job), job.x, threat, model.bounds)
    return Diagnosis(
        x=job.x,
        method=job.method.card.name,
        options=job.options,
        cost=meter.cost,
        y=y,
        threat=threat,
        checks=tuple(found.checks),
        evidence=found.evidence,
        adversarial=adversarial,
        broken=model.verdict(job.x, adversarial, Avoid(y))[1] > 0.5,
        seed=job.options.get("seed"),
    )


def _like(found: Tensor, x: Tensor, job: Job) -> Tensor:
    name = job.method.card.name
    if found.shape != x.shape or found.dtype != x.dtype:
        given, wanted = (f"{tuple(t.shape)} {t.dtype}" for t in (found, x))
        raise MethodFailed(f"{name} returned {given} for samples {wanted}")
    if not finite(found):
        raise MethodFailed(f"{name} returned samples that are not finite")
    return found.detach()


def batched(threat: Threat, x: Tensor) -> Threat:
    """Returns the threat with the batch dimension that methods expect of its mask."""
    if threat.mask is None:
        return threat
    mask = (threat.mask != 0).to(x.device)
    return replace(threat, mask=mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape))


def inputs_of(method: Method[Any], model: Adapter, x: Tensor, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns what the method takes beside the samples, checked and in one form.

    A plain label tensor becomes ``Avoid``, no target becomes the decision, a mask gets its batch dimension.
    """
    card = method.card
    if card.decorator == "metric":
        return args
    if card.decorator == "explain":
        (target,) = args or (None,)
        if target is None:
            return (model.backend.labels(x),)
        if isinstance(target, int):
            return (torch.full((len(x),), target, device=x.device),)
        return (torch.tensor(target, device=x.device).expand(len(x), 2) if isinstance(target, tuple) else target,)
    aim, threat = args
    if threat.norm not in card.norms:
        raise InputError(
            f"{card.name} works in {', '.join(card.norms)}, not in {threat.norm}", f"ironglass show {card.name}"
        )
    if card.finite and threat.eps == float("inf"):
        raise InputError(
            f"{card.name} needs a finite eps",
            "give the radius to search in, in the threat's units, or take a minimum-norm attack such as fmn",
        )
    threat = batched(threat, x)
    if isinstance(aim, Goal) and aim.targeted and not card.targeted:
        raise InputError(f"{card.name} takes no target", "give the true labels, or choose a targeted attack")
    return aim, threat
