"""Is the robustness real? A battery of checks against gradient masking and failed attacks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.diagnosis import Examined
from ironglass.core.errors import InputError
from ironglass.core.method import diagnose
from ironglass.core.values import Avoid, Threat
from ironglass.models.adapter import wrap

from . import masking_probes as probe
from .masking_checks import CHECKS
from .masking_trials import Trials

DIFFERENT = 1e-4
"""Scores that differ by more, relative to the largest, are different."""
CALLS = 3
NOISE_TRIES = 10


@diagnose(
    title="Is the robustness real?",
    paper="carlini2019evaluating",
    access="gradient",
    norms=("linf", "l2", "l1"),
    cost="restarts * (10 * steps + 5) + 8 * steps + 17 * paths + probes + queries + 20 * draws + 30",
    lecture="evaluating defences: gradient masking",
    tags=("athalye2018", "pintor2022indicators"),
)
def masking_alarms(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 40,
    restarts: int = 3,
    queries: int = 500,
    draws: int = 10,
    probes: int = 20,
    paths: int = 4,
    surrogate: object = None,
    seed: int = 0,
) -> Examined:
    r"""Look for signs that a model is hard to attack rather than robust.

    The causes are looked for first, without an attack: random scores, scores that depend on the batch, probabilities,
    gradients computed at inference, gradients that vanish (of the margin, or by saturation of the cross-entropy alone),
    rounding, jumps. Then attacks are set against each other, sample by sample: one step and many, small and boundless
    radii, more steps, more restarts, other losses, scores alone, noise, a surrogate's examples. What the weaker breaks
    and the stronger does not is an alarm, and so is a sample that survives when every value may change at will.

    Only samples that are labelled right are attacked. Where scores are random, more than half of ``draws`` fresh calls
    must be fooled; an attack that was only lucky once has failed silently, and is reported so.

    Args:
        steps: of a gradient attack.
        restarts: random starts of a gradient attack; fewer than 3 raise false alarms.
        queries: of the random search with scores alone, a sample.
        draws: fresh calls that judge a sample whose scores are random.
        probes: noisy copies a sample, for the stability of the margin.
        paths: straight paths a sample, for jumps.
        surrogate: a model of the same task, whose adversarial examples are tried here; its passes are not counted.
        seed: of every random draw.

    Returns:
        The checks with evidence a sample; and the inputs that broke samples, or the samples themselves.

    Raises:
        InputError: if the threat's eps is infinite, or an option is out of range.
    """
    if not 0 < threat.eps < float("inf"):
        raise InputError(f"masking_alarms needs a radius, not {threat.eps}", "give the eps of the robustness in doubt")
    if min(steps, restarts, queries, draws, probes, paths) < 1:
        raise InputError("an option of masking_alarms is below 1", "e.g. steps=40, restarts=3, queries=500")
    found = _causes(model, x, y, probes, paths, seed)
    random = found["random"]
    trials = Trials(
        model, x, y, threat, random=random, draws=draws, steps=steps, restarts=restarts, seed=seed
    )  # fmt: skip
    right = ~trials.fooled(x, torch.arange(len(x), device=x.device))
    usable = not bool(found["unusable"].any())
    found |= _attacks(model, x, trials, right, usable, queries, surrogate)
    nothing = torch.full_like(random, -1, dtype=torch.int8)
    columns = [found[check.name].to(torch.int8) if check.name in found else nothing for check in CHECKS]
    return Examined(CHECKS, torch.stack(columns, 1), trials.worst)


def _causes(model: Model, x: Tensor, y: Tensor, probes: int, paths: int, seed: int) -> dict[str, Tensor]:
    """Returns the evidence that needs no attack."""
    scores, gradients = probe.backward_calls(lambda: model.scores(x))
    calls = [scores, *(model.scores(x) for _ in range(CALLS - 1))]
    goal, draws = Avoid(y), model.draws(seed)
    margin = goal.loss("margin")
    random = probe.spread(calls) > DIFFERENT
    of_margin, of_ce = (probe.gradient(model, x, loss) for loss in (margin, probe.textbook(y)))
    flat = probe.vanishes(of_margin, x)
    still = ~random & ~flat  # where jumps and saturation mean something of their own
    steps = flat & probe.unchanged(model, x, scores, draws)
    jumps = probe.jump(model, x, margin, draws, paths) > 0.5
    return {
        "random": random,
        "unusable": torch.full_like(random, of_margin is None or of_ce is None),
        "batch": _where(~random, probe.batch_dependence(model, x) > DIFFERENT),
        "probabilities": probe.probabilities(scores),
        "gradient_at_inference": torch.full_like(random, gradients > 0),
        "zero_gradient": flat,
        "saturated": _where(~flat, probe.vanishes(of_ce, x)),
        "steps": steps,
        "jumps": _where(still, jumps),
        "unstable": probe.instability(model, x, margin, scores, draws, probes) > 0.1,
    }


def _attacks(
    model: Model, x: Tensor, trials: Trials, right: Tensor, usable: bool, queries: int, surrogate: object
) -> dict[str, Tensor]:
    """Returns the evidence of attacks, on the samples that are labelled right; the others are not asked."""
    threat, found, none = trials.threat, {}, torch.zeros_like(right)
    ce = white = none
    if usable:
        ce = trials.gradient(_rows(right))
        missed = _rows(right & ~ce)
        others = trials.gradient(missed, "margin")
        if model.classes > 2:
            others |= trials.gradient(missed, "dlr")
        found = {
            "single_step": trials.single(missed),
            "eps_curve": trials.gradient(missed, threat=replace(threat, eps=threat.eps / 2), restarts=1, stream=1),
            "more_steps": trials.gradient(missed, steps=2 * trials.steps, restarts=1),
            "more_restarts": trials.gradient(missed, stream=2),
            "loss": others,
        }
        white = ce | others
    left = right & ~white
    found |= {"black_box": trials.search(_rows(left), queries), "noise": trials.noise(_rows(left), NOISE_TRIES)}
    if surrogate is not None:
        other, _ = wrap(surrogate).session(x, "gradient")  # type: ignore[arg-type]
        found["transfer"] = trials.transfer(_rows(left), cast(Model, other))
    if usable and threat.mask is None:
        boundless = replace(threat, eps=_everything(threat, x, model.bounds.span))
        found["unbounded"] = left & ~trials.gradient(_rows(left), threat=boundless)
    evidence = {name: _where(right, shown) for name, shown in found.items()}
    if usable:
        survive = right & ~trials.broken
        rising = torch.zeros_like(right)
        rising[_rows(survive)] = probe.incomplete(trials.trace(_rows(survive)))
        evidence["incomplete"] = _where(survive, rising)
        evidence["silent"] = _where(right, trials.silent)
        evidence["worst_case"] = _where(right, trials.broken & ~ce)
    return evidence


def _everything(threat: Threat, x: Tensor, span: float) -> float:
    """Returns the radius at which every value may change at will."""
    size = x[0].numel()
    return span * {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size)}[threat.norm]


def _rows(which: Tensor) -> Tensor:
    return which.nonzero()[:, 0]


def _where(asked: Tensor, shown: Tensor) -> Tensor:
    """Returns evidence: 1 where a sample shows it, 0 where not, -1 where it was not asked."""
    return torch.where(asked, shown.to(torch.int8), -1)
