"""The plan: which methods of the catalogue fit this model, this data and this suite, and what they will cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ironglass.core.catalogue import LADDER, MADE, Card, catalogue, find
from ironglass.core.config import Config
from ironglass.core.findings import Limit
from ironglass.core.values import Norm, Threat
from ironglass.models.adapter import Adapter

from .suite import Suite, read_suite

APART = {
    "study": "is a study of its own, of whole sets or of several models: call it from Python",
    "train": "trains a network: ironglass defend",
    "uncertainty": "says what the model does not know: call it from Python",
    **dict.fromkeys(MADE, "makes a defended model: put it before yours in Python, and audit that"),
    "defence": "makes a defended model: audit that, with --defence",
}
"""Kinds of method that are no part of an audit, and why."""
DOMAINS = {4: "image", 3: "sequence", 2: "table"}


@dataclass(frozen=True, slots=True)
class Step:
    """One method of the plan: its options, on how many samples, and the passes expected a sample."""

    card: Card
    options: Mapping[str, Any]
    samples: int
    passes: float
    why: str

    @property
    def name(self) -> str:
        """The method's name."""
        return self.card.name

    @property
    def title(self) -> str:
        """The method's title."""
        return self.card.title

    @property
    def family(self) -> str:
        """The method's family."""
        return self.card.family


@dataclass(frozen=True, slots=True)
class Plan:
    """What an audit will do, in order, and what it will not, with the reason."""

    suite: Suite
    threat: Threat
    steps: tuple[Step, ...]
    limits: tuple[Limit, ...]
    curve: str | None
    radii: tuple[float, ...]
    minima: Mapping[Norm, tuple[Step, ...]]

    @property
    def passes(self) -> float:
        """Passes expected in all, forward and backward, at most.

        That is each step once, the curve's and a certificate at every radius, and the minimum-norm attacks in every
        norm.
        """
        drawn = (self.curve, self.suite.control) if self.curve else ()
        times = {name: 1 + len(self.radii) for name in (*drawn, *(step.name for step in self.of("certify")[-1:]))}
        least = sum(step.passes * step.samples for steps in self.minima.values() for step in steps)
        return least + sum(step.passes * step.samples * times.get(step.name, 1) for step in self.steps)

    @property
    def count(self) -> int:
        """How many times a method is run."""
        tests = len(self.of("metric"))
        again = tests * len(self.of("explain")) - tests  # each test is run on each explanation
        return (
            len(self.steps) + again + (2 * len(self.radii) if self.curve else 0) + sum(map(len, self.minima.values()))
        ) + (len(self.radii) if self.of("certify") else 0)

    def cascades(self) -> list[list[Step]]:
        """Returns the attacks in cascades, cheap ones first: the control, and each level of access."""
        blind = ("labels", "scores")
        steps: dict[str, list[Step]] = {}
        for step in sorted(self.of("attack"), key=lambda step: step.passes):
            control = step.name == self.suite.control
            access = step.card.access_with(step.options)
            level = "control" if control else access if access in blind else "gradient"
            steps.setdefault(level, []).append(step)
        return [steps[level] for level in ("control", *blind, "gradient") if level in steps]

    def of(self, decorator: str) -> list[Step]:
        """Returns the steps of one kind."""
        return [step for step in self.steps if step.card.decorator == decorator]


def default_eps(norm: Norm, x: Tensor, span: float) -> float:
    r"""Returns a usual radius: 4/255 of the range a value for pictures, 0.05 for others, and its like in l2 and l1.

    In l2 it is half of :math:`\varepsilon_\infty \sqrt d`, in l1 a tenth of :math:`\varepsilon_\infty d`; a Wasserstein
    radius is in pixels that the mass travels, 0.05.
    """
    each = span * (4 / 255 if x.ndim == 4 and x.shape[-1] >= 16 else 0.05)
    size = x[0].numel()
    usual: dict[Norm, float] = {
        "linf": each,
        "l2": each * math.sqrt(size) / 2,
        "l1": each * size / 10,
        "l0": float(max(1, size // 100)),
        "wasserstein": 0.05,
    }
    return usual[norm]


def make_plan(model: Adapter, x: Tensor, config: Config) -> Plan:
    """Returns the plan for a model that has seen its data.

    Args:
        model: probed, so that its access and classes are known.
        x: the samples.
        config: norm, radius, suite, and which methods to run or to leave out.

    Raises:
        InputError: if a method that was asked for does not exist.
    """
    suite = read_suite(config.suite)
    threat = Threat(config.norm, config.eps or default_eps(config.norm, x, model.bounds.span))
    for name in (*config.only, *config.skip, *config.options):
        find(name)
    steps, limits = [], []
    for card in catalogue().values():
        options = _options(card, suite, config)
        why = _why_not(card, options, model, x, suite, config, threat.norm)
        if why:
            limits.append(Limit(what=card.title, why=why))
            continue
        few = {"explain": suite.explained, "metric": suite.explained, "diagnose": suite.examined}
        samples = min(len(x), few.get(card.decorator, len(x)))
        what = f"needs {card.access_with(options)}" + (f", works in {threat.norm}" if card.norms else "")
        steps.append(Step(card, options, samples, card.passes(model.classes, options), what))
    chosen = {step.name for step in steps}
    curve = next((name for name in suite.curve if name in chosen), None)
    radii = tuple(ratio * threat.eps for ratio in suite.radii)
    if threat.norm == "linf":
        radii = tuple(radius for radius in radii if radius < model.bounds.span) or (threat.eps,)
    minima = {norm: _minimum(norm, model, x, suite, config) for norm in suite.norms}
    least = {norm: found for norm, found in minima.items() if found}
    return Plan(suite, threat, tuple(steps), tuple(limits), curve, radii, least)


def _minimum(norm: Norm, model: Adapter, x: Tensor, suite: Suite, config: Config) -> tuple[Step, ...]:
    """Returns the suite's attacks for the smallest change in this norm that fit the model."""
    steps = []
    for name in suite.minimum:
        card = find(name)
        options = _options(card, suite, config)
        if norm in card.norms and not _why_not(card, options, model, x, suite, config, norm):
            steps.append(Step(card, options, len(x), card.passes(model.classes, options), f"the smallest in {norm}"))
    return tuple(steps)


def _options(card: Card, suite: Suite, config: Config) -> dict[str, Any]:
    """Returns a method's options: its own defaults, the suite's in their place, and the user's in theirs."""
    options = dict(suite.options.get(card.name, {})) | dict(config.options.get(card.name, {}))
    if card.random:
        options["seed"] = config.seed
    return card.filled(options)


def _why_not(
    card: Card, options: Mapping[str, Any], model: Adapter, x: Tensor, suite: Suite, config: Config, norm: Norm
) -> str:
    """Returns why a method is not part of the plan, or nothing."""
    if (config.only and card.name not in config.only) or card.name in config.skip:
        return "left out on request"
    if card.family == "bench":
        return f"sets several models or attacks side by side: ironglass bench {card.name}"
    if card.decorator in APART:
        return APART[card.decorator]
    if LADDER.index(access := card.access_with(options)) > LADDER.index(model.access):
        return f"needs {access}, the model gives {model.access}"
    if card.norms and norm not in card.norms:
        return f"works in {', '.join(card.norms)}, the threat is in {norm}"
    if card.inputs and DOMAINS.get(x.ndim) not in card.inputs:
        return f"is for {', '.join(card.inputs)} inputs"
    missing = [name for name in card.needs if options[name] is None]
    if missing:
        return f"needs {', '.join(missing)}, which only you can give: call it from Python"
    if card.name in suite.skip and card.name not in config.only:
        return "left to a longer suite"
    passes = card.passes(model.classes, options)
    if passes > suite.max_passes and card.name not in config.only:
        return f"expects {passes:,.0f} passes a sample, the {config.suite} suite allows {suite.max_passes:,.0f}"
    return ""
