"""Transfer: adversarial examples of other models, and not one query."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ironglass.core.access import Model
from ironglass.core.errors import AccessError, InputError
from ironglass.core.method import attack
from ironglass.core.values import Bounds, Goal, LossName, Threat
from ironglass.models.adapter import Adapter, wrap
from ironglass.ops.ascent import ascend
from ironglass.ops.balls import sample_ball


@attack(
    title="Transfer from other models",
    paper="liu2017transfer",
    access="labels",
    norms=("linf", "l2", "l1"),
    finite=True,
    needs=("source",),
    cost="0",
    lecture="black-box evasion: zero queries, transfer",
)
def transfer(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    source: object = None,
    steps: int = 40,
    step_size: float | None = None,
    decay: float = 1.0,
    loss: LossName = "ce",
    start: bool = False,
    seed: int = 0,
) -> Tensor:
    r"""Climb the loss of models of one's own with momentum, all the way, and hope that the target falls too.

    .. math:: g_{t+1} = \mu\, g_t + \frac{\nabla L(\bar z(x_t))}{\overline{|\nabla L(\bar z(x_t))|}}, \qquad
        x_{t+1} = \Pi(x_t + \arg\max_{\|u\| \le \alpha} \langle g_{t+1}, u \rangle), \qquad
        \bar z = \tfrac1k \sum_i z_i

    Of several sources the mean of the logits :math:`\bar z` is attacked: what fools all of them transfers best. The
    climb does not stop where the sources are fooled. The target is not asked.

    Args:
        source: a network or a wrapped model of the same classes and inputs, or several; their passes are not counted.
        steps: of the climb.
        step_size: in the threat's norm, input units; if None 2.5 eps / steps.
        decay: the weight of the gradients before (MI-FGSM); 0 for plain steps (PGD).
        loss: ``ce`` for cross-entropy, ``margin`` for the logit margin, ``dlr`` for the difference of logits ratio.
        start: begin at a random point of the ball.
        seed: of that point.

    Returns:
        Adversarial samples of the sources ``(N, *shape)``, within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, there is no source or of other classes, or an option is out of
            range.
        AccessError: if a source has no gradients.
    """
    if steps < 1 or decay < 0:
        raise InputError(f"steps={steps}, decay={decay}", "give steps ≥ 1 and decay ≥ 0, e.g. 40 and 1.0")
    ours = surrogate(source, x, model.bounds)
    here = x.to(ours.backend.dtype)
    session, _ = ours.session(here, "gradient")
    if session.classes != model.classes:
        raise InputError(
            f"the source has {session.classes} classes, the target {model.classes}", "give a source of the same task"
        )
    begin = sample_ball(model.draws(seed), x, threat, model.bounds).to(here.dtype) if start else None
    size = 2.5 * threat.eps / steps if step_size is None else step_size
    found = ascend(
        session, here, goal, threat, sizes=[size] * steps, loss=goal.loss(loss), start=begin, decay=decay, onward=True
    )
    return found.point.to(x.dtype)


class Mean(nn.Module):
    """The mean of several networks' logits."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits ``(n, classes)``."""
        return torch.stack([net(x) for net in self.nets]).mean(0)


def surrogate(source: object, x: Tensor, bounds: Bounds) -> Adapter:
    """Returns the model that stands for the target: the source, or the mean of several.

    Args:
        source: a model, or several.
        x: samples, to show it.
        bounds: of a source that is not wrapped.

    Raises:
        InputError: if there is none, or their classes differ.
        AccessError: if one has no gradients.
    """
    several = list(source) if isinstance(source, list | tuple) else [source]
    if not several:
        raise InputError("there is no source", "give source=net, or a list of networks")
    wrapped = [wrap(one, bounds=bounds) for one in several]  # type: ignore[arg-type]
    for adapter in wrapped:
        adapter.probe(x.to(adapter.backend.dtype)[:8])
        if adapter.access in ("labels", "scores"):
            raise AccessError(f"a source gives {adapter.access} alone", "give a network, whose gradients can be taken")
    if len({adapter.classes for adapter in wrapped}) > 1:
        given = ", ".join(str(adapter.classes) for adapter in wrapped)
        raise InputError(f"the sources have {given} classes", "give sources of one task")
    if len(wrapped) == 1:
        return wrapped[0]
    dtype = wrapped[0].backend.dtype
    nets = [adapter.backend.module(x[:1].to(adapter.backend.dtype)).to(dtype) for adapter in wrapped]
    mean = wrap(Mean(nets).eval(), bounds=bounds)
    mean.probe(x[:8].to(dtype))
    return mean
