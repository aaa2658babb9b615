"""Running a training: checks it, trains a copy epoch by epoch, measures each, keeps the best, and takes it up again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn

from ironglass.core.catalogue import LADDER
from ironglass.core.errors import (
    AccessError,
    BudgetExceeded,
    InputError,
    IronglassError,
    IronglassWarning,
    MethodFailed,
)
from ironglass.core.method import Method, get
from ironglass.core.results import AttackResult, Certificate
from ironglass.core.statistics import wilson
from ironglass.core.training import Batch, Count, Epoch, Kind, Recipe, Tick, Trained
from ironglass.core.values import Threat
from ironglass.models.adapter import Adapter, check, wrap
from ironglass.models.network import Torch
from ironglass.ops.training import Loop, schedules
from ironglass.ops.training.student import Apprentice

from .checkpoint import Checkpoint, key_of, place_of
from .judge import inputs_of
from .runner import Runner

Pair = tuple[Tensor, Tensor]
HELD, MOST = 0.1, 1000
"""The share of the samples that is kept back, and how many at most."""
STEPS = 40
"""Of the Auto-PGD that epochs are measured with: 20 steps of one size believe robustness that is not there."""


def run_training(
    method: Method[Any],
    model: object,
    data: Pair,
    threat: Threat | None = None,
    check: Pair | None = None,
    checkpoint: str | Path | None = None,
    progress: Tick | None = None,
    **options: Any,
) -> Trained:
    """Trains a copy of a model's network.

    Raises:
        InputError: before any work is done, if the request is wrong.
        MethodFailed: if the loss is no longer finite, or the method raises.
    """
    card = method.card
    chosen = card.filled(method.fixed | options)
    place = None if checkpoint is None else place_of(checkpoint, card.name)
    adapter = _wrapped(model)
    data, threat = _checked(method, adapter, data, threat)
    probe = None if check is None else _checked(method, adapter, check, threat)[0]
    recipe: Recipe = method.raw(threat, **chosen)
    schedules.check(recipe.schedule, recipe.shape, recipe.warm, recipe.ramp)
    kept = None if place is None else Checkpoint(place, key_of(method, chosen, adapter, data, threat))
    course = Course(recipe, adapter, data, threat)
    try:
        partial = course.run(kept, progress)
        return course.result(card.name, chosen, probe, partial)
    except IronglassError:
        raise
    except Exception as error:
        raise MethodFailed(f"{card.name} failed: {type(error).__name__}: {error}") from error


def _wrapped(model: object) -> Adapter:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the network is in train mode", category=IronglassWarning)
        return wrap(model)  # type: ignore[arg-type]


def _checked(method: Method[Any], model: Adapter, data: Pair, threat: Threat | None) -> tuple[Pair, Threat | None]:
    """Returns samples and labels on the network's device, and the threat in its one form."""
    card = method.card
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise InputError(f"data is a {type(data).__name__}", "give a pair of tensors, (x, y)")
    x, y = data
    check(model, x, y, threat)
    if not isinstance(model.backend, Torch) or LADDER.index(model.access) < LADDER.index(card.access):
        raise AccessError(f"{card.name} needs {card.access}, this model gives {model.access}", "give an nn.Module")
    if threat is None and card.norms:
        raise InputError(f"{card.name} trains against a threat, none was given", "e.g. ig.Linf(0.1)")
    if len(x) < 2:
        raise InputError("there is one sample", "give some to train on, and some to measure on")
    if threat is not None:
        _, threat = inputs_of(method if card.norms else get("pgd"), model, x, (y, threat))
    backend = model.backend
    return (x.detach().to(backend.device, backend.dtype), y.to(backend.device)), threat


def measure(model: Adapter, data: Pair, threat: Threat | None, certificate: str | None) -> dict[Kind, Count]:
    """Returns how many samples are labelled right: as they are, under Auto-PGD, and proven.

    Args:
        model: to be measured.
        data: samples and labels.
        threat: of Auto-PGD and the proof; without one the samples are taken as they are.
        certificate: a proof of the catalogue; without one nothing is proven.
    """
    x, y = data
    if threat is None:
        return {"clean": (int((model.labels(x) == y).sum()), len(y))}
    runner = Runner(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="eps .* covers the whole", category=IronglassWarning)
        attacked = cast(AttackResult, runner(get("auto_pgd"), x, y, threat, steps=STEPS))
        found: dict[Kind, int] = {
            "clean": int((attacked.before.argmax(1) == y).sum()),
            "attacked": int((~attacked.success).sum()),
        }
        if certificate is not None:
            found["certified"] = int(cast(Certificate, runner(get(certificate), x, y, threat)).verified.sum())
    return {kind: (right, len(y)) for kind, right in found.items()}


class Course:
    """One training: the copy that learns, the loop, the part of the samples kept back, and the best so far.

    Args:
        recipe: what the method says.
        model: whose network is copied; it is probed.
        data: samples and labels on its device.
        threat: checked.
    """

    def __init__(self, recipe: Recipe, model: Adapter, data: Pair, threat: Threat | None) -> None:
        self.recipe, self.given, self.threat = recipe, model, threat
        self._x, self._y = data
        order = torch.randperm(len(self._y), generator=torch.Generator().manual_seed(recipe.seed))
        held = min(max(round(HELD * len(order)), 1), MOST)
        self.held, self.rows = order[:held].to(self._y.device), order[held:].to(self._y.device)
        self.student = Apprentice(model, torch.Generator())
        self.loop = Loop(
            self.student.net, len(self.rows), self._loss, epochs=recipe.epochs, batch=recipe.batch, lr=recipe.lr,
            schedule=recipe.schedule, replays=recipe.replays, clip=recipe.clip, seed=recipe.seed,
        )  # fmt: skip
        self.student.generator = self.loop.generator
        self.history: list[Epoch] = []
        self.best, self._best = 0, {}
        self.stopped = self._told = False

    _best: dict[str, Tensor]

    def _loss(self, net: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        chosen, recipe = self.rows[rows], self.recipe
        grown = schedules.grown(self.loop.share, recipe.warm, recipe.ramp, recipe.shape)
        threat = self.threat
        if threat is not None:
            full = threat.eps if recipe.train_eps is None else recipe.train_eps
            threat = replace(threat.take(chosen), eps=full * grown)
        return recipe.loss(self.student, Batch(self._x[chosen], self._y[chosen], threat, grown, self.loop.step))

    def _measured(self) -> dict[Kind, Count]:
        threat = None if self.threat is None else self.threat.take(self.held)
        data = (self._x[self.held], self._y[self.held])
        return measure(self.student.adapter, data, threat, self.recipe.certificate)

    def run(self, kept: Checkpoint | None, progress: Tick | None) -> bool:
        """Trains to the end, or to an interruption: returns whether there was one."""
        saved = None if kept is None else kept.load()
        if saved is not None:
            self._restore(*saved)
        try:
            if not self.history:
                self._take(Epoch(number=0, counts=self._measured()))
            while self.loop.done < self.loop.epochs and not self.stopped:
                self._epoch()
                if kept is not None:
                    kept.save(*self._state())
                if progress is not None:
                    progress(self.loop.done, self.loop.epochs, self.history[-1])
        except (KeyboardInterrupt, BudgetExceeded):
            if not self.history:
                raise
            return True
        return False

    def _epoch(self) -> None:
        start = perf_counter()
        lr = self.loop.lr
        loss = self.loop.epoch()
        seconds = perf_counter() - start
        last = (self.loop.step - 1) / self.loop.steps
        reached = schedules.grown(last, self.recipe.warm, self.recipe.ramp, self.recipe.shape)
        eps = None if self.threat is None else (self.recipe.train_eps or self.threat.eps) * reached
        found = Epoch(number=self.loop.done, counts=self._measured(), loss=loss, eps=eps, lr=lr, seconds=seconds)
        self._take(self._watched(found))

    def _watched(self, epoch: Epoch) -> Epoch:
        """Notes what looks like a step learned by heart, and stops where that under Auto-PGD has fallen for it."""
        allowed, now = self.recipe.watch, epoch.counts.get("attacked")
        if allowed is None or now is None or self.loop.share < self.recipe.warm + self.recipe.ramp:
            return epoch
        best = self.history[self.best].counts["attacked"]
        fell = self.best > 0 and _beyond(best, now, allowed)
        if not fell and (self._told or not _beyond(epoch.counts["clean"], now, allowed)):
            return epoch
        easy = self._one_step()
        heart = _beyond(easy, now, allowed)
        if not fell and not heart:
            return epoch
        held, step, most = (right / count for right, count in (now, easy, best))
        said = f"under one step (FGSM) {step:.0%} hold, under Auto-PGD {held:.0%}"
        what = f"catastrophic overfitting: {said}" if heart else f"the network breaks down: {said}"
        if fell:
            what += f", down from {most:.0%} in epoch {self.best}; stopped, and epoch {self.best} is kept"
        self.stopped, self._told = fell, True
        return replace(epoch, note=what)

    def _one_step(self) -> Count:
        assert self.threat is not None
        part = (self._x[self.held], self._y[self.held], self.threat.take(self.held))
        found = cast(AttackResult, Runner(self.student.adapter)(get("fgsm"), *part))
        return int((~found.success).sum()), len(found)

    def _take(self, epoch: Epoch) -> None:
        """Writes an epoch down, and keeps its weights if it is the best."""
        self.history.append(epoch)
        if epoch.number == 0 or self._worth(epoch) > self._worth(self.history[self.best]):
            self.best = epoch.number
            self._best = {name: tensor.clone() for name, tensor in self.student.net.state_dict().items()}

    def _worth(self, epoch: Epoch) -> tuple[int, ...]:
        order: tuple[Kind, ...] = ("certified", "attacked", "clean")
        return tuple(epoch.counts[kind][0] for kind in order[order.index(self.recipe.by) :] if kind in epoch.counts)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        parts: dict[str, Mapping[str, Tensor]] = {
            "loop": self.loop.state(),
            "memory": self.student.memory,
            "best": self._best,
        }
        tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        return tensors, {
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best,
            "stopped": self.stopped,
            "passes": [self.student.forward, self.student.backward],
        }

    def _restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"loop": {}, "memory": {}, "best": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor if part == "loop" else tensor.to(self._x.device)
        self.loop.restore(parts["loop"])
        self.student.memory |= parts["memory"]
        self._best = parts["best"]
        for row in record["history"]:
            counts = {kind: tuple(count) for kind, count in row["counts"].items()}
            self.history.append(Epoch(**row | {"counts": counts}))
        self.best, self.stopped = record["best"], record["stopped"]
        self._told = any(epoch.note for epoch in self.history)
        self.student.forward, self.student.backward = record["passes"]

    def result(self, name: str, options: Mapping[str, Any], probe: Pair | None, partial: bool) -> Trained:
        """Returns the best copy, with the figures before and after."""
        whole = self.student.whole
        whole.load_state_dict(self._best)
        whole.eval()
        model = copy.copy(self.given)
        model.backend, model.key, model._probed = Torch(whole.net, whole.mean, whole.std), None, False
        if probe is None:
            before, after = (self.history[number].counts for number in (0, self.best))
            held = f"the {len(self.held)} samples kept back, by which the best epoch was chosen"
        else:
            before, after = (measure(each, probe, self.threat, self.recipe.certificate) for each in (self.given, model))
            held = f"{len(probe[0])} samples that played no part in the training"
        return Trained(
            net=whole.net,
            model=model,
            method=name,
            options=options,
            threat=self.threat,
            history=tuple(self.history),
            best=self.best,
            before=before,
            after=after,
            held=held,
            cost=replace(self.student.cost, seconds=sum(epoch.seconds for epoch in self.history)),
            partial=partial,
            seed=self.recipe.seed,
        )


def _beyond(more: Count, less: Count, gap: float) -> bool:
    """Whether one accuracy exceeds another by more than that, interval from interval."""
    return wilson(*more)[0] - wilson(*less)[1] > gap
