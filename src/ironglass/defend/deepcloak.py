"""DeepCloak: the features that adversarial changes move most are not looked at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ironglass.core.access import Model
from ironglass.core.catalogue import FINISH
from ironglass.core.errors import InputError
from ironglass.core.method import Method, get, network_defence
from ironglass.core.values import Avoid, Threat
from ironglass.ops import lp


@network_defence(
    title="DeepCloak",
    paper="gao2017",
    access="training",
    norms=("linf", "l2", "l1"),
    cost="6",
    lecture="defences: masking features",
)
def deepcloak(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    share: float = 0.01,
    attack: str | Method[...] = "fgsm",
    layer: str | None = None,
) -> nn.Module:
    r"""Mask the features before the classifier that differ most between samples and their adversarial twins.

    .. math:: s_j = \sum_n |a_j(x_n) - a_j(x'_n)|, \qquad a_j \mapsto a_j\, [\, \mathrm{rank}(s_j) > k\,]

    The twins are made once, on the network as it is; so this is no defence against who knows it. In train mode nothing
    is masked.

    Args:
        share: of the features that are masked, k in all; 0 masks none, and more masks those of less and others.
        attack: that makes the twins: by name, or with options fixed.
        layer: the classifier, a linear layer by name; the last linear one of the model's classes if None.

    Returns:
        The network with the mask before its classifier.

    Raises:
        InputError: if there is no such layer, or an option is out of range.
    """
    if not 0 <= share < 1:
        raise InputError(f"share={share}", "give the part of the features to mask, 0 ≤ share < 1")
    method = get(attack, "attack") if isinstance(attack, str) else attack
    if method.card.decorator != "attack" or threat.norm not in method.card.norms:
        raise InputError(f"{method.card.name} is no attack in {threat.norm}", "e.g. attack='fgsm'")
    finish = {option.name for option in FINISH}
    options = {name: value for name, value in method.fixed.items() if name not in finish}
    twins = lp.project(method.raw(model, x, Avoid(y), threat, **options), x, threat, model.bounds)
    net = model.module()
    name, classifier = _classifier(net, layer, model.classes)
    scores = (features(net, classifier, x) - features(net, classifier, twins)).abs().sum(0)
    kept = torch.ones_like(scores)
    kept[scores.argsort(descending=True, stable=True)[: round(share * len(scores))]] = 0
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, Cloaked(classifier, kept, scores))
    return net.eval()


class Cloaked(nn.Module):
    """A linear layer that does not see some of its inputs, except in train mode.

    Args:
        linear: the layer.
        kept: 1 for a feature that is seen, 0 for one that is not ``(features,)``.
        moved: how much adversarial changes moved each feature ``(features,)``.
    """

    kept: Tensor
    moved: Tensor

    def __init__(self, linear: nn.Linear, kept: Tensor, moved: Tensor) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("kept", kept)
        self.register_buffer("moved", moved)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the layer makes of the features that it sees."""
        seen: Tensor = self.linear(x if self.training else x * self.kept)
        return seen


def features(net: nn.Module, classifier: nn.Module, x: Tensor, rows: int = 256) -> Tensor:
    """Returns what enters the classifier ``(N, features)``; the mean over positions where there are several."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Any, ...]) -> None:
        entering = args[0].detach()
        seen.append(entering.reshape(len(entering), -1, entering.shape[-1]).mean(1))

    handle = classifier.register_forward_pre_hook(keep)
    first = next(net.parameters(), x)
    try:
        with torch.no_grad():
            for part in torch.split(x, rows):
                net(part.to(first))
    finally:
        handle.remove()
    return torch.cat(seen)


def _classifier(net: nn.Module, layer: str | None, classes: int) -> tuple[str, nn.Linear]:
    """Returns the classifier and its name in the network."""
    linear = {name: module for name, module in net.named_modules() if isinstance(module, nn.Linear)}
    if layer is None:
        fit = [name for name, module in linear.items() if module.out_features == classes]
        if not fit:
            raise InputError(f"no linear layer gives {classes} classes", "name the classifier: layer=")
        return fit[-1], linear[fit[-1]]
    for name in (layer, f"net.{layer}"):  # layers are named as in the user's network, without what normalizes
        if name in linear:
            return name, linear[name]
    raise InputError(f"the network has no linear layer '{layer}'", f"name one of: {', '.join(linear)}")
