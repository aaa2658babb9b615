"""Layer-wise relevance propagation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import explain
from ironglass.core.results import Map
from ironglass.ops import baselines
from ironglass.ops.rules import Relevance
from ironglass.ops.rules import composite as rules_of
from ironglass.ops.targets import logit

Name = Literal[
    "epsilon",
    "gamma",
    "z_plus",
    "alpha2_beta1",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_gamma_box",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
]


@explain(
    title="Layer-wise relevance propagation",
    paper="bach2015",
    access="internals",
    cost="2",
    kind="specific",
    lecture="layer-wise relevance propagation",
)
def lrp(
    model: Model,
    x: Tensor,
    target: Tensor,
    *,
    composite: Name = "epsilon_gamma_box",
    epsilon: float = 1e-6,
    gamma: float = 0.25,
) -> Map:
    r"""Hand the target's logit back from layer to layer, so that none of it is made and none is lost.

    .. math:: R_i = \sum_j \frac{\rho(x_i w_{ij})}{\sum_k \rho(x_k w_{kj}) + b_j} R_j, \qquad
              \sum_i R_i + \mathrm{absorbed} = f_t(x)

    Every layer shares out what its outputs have got among its inputs, by what they contributed; the rules differ in
    how they weigh contributions (:math:`\rho`). It works on functions, not on modules: residual connections, shared and
    in-place layers, attention, layer norm and gates need no preparation; a function that no rule is known for is
    refused by name. Batch norms belong to the layers before them. Normalization by mean and standard deviation leaves a
    pixel's relevance where it is; the box rule knows the bounds of the input in its own units. Of two factors the gate
    gets nothing, equals share (`ironglass.ops.rules.relevance` says all of it).

    The sum of the map is the logit, less what the biases and the stabilizer ε keep: trained networks have large ones.
    That share is the map's error. Montavon et al. (montavon2019) explain which rule to use where. Rules that favour
    what agrees with the output (γ, z⁺, αβ) draw calm maps, which on deep networks can be much the same for every class,
    up to their sign (sixt2020); ``parameter_randomization`` tells, and ``epsilon`` is the rule that keeps them apart.

    Layer-wise relevance propagation is said to be covered by patents in some places: the README of the LXT project
    (https://github.com/rachtibat/LRP-eXplains-Transformers) says so. Have it checked before commercial use.

    Args:
        composite: the rules of dense layers, of convolutions, and of the first one. ``epsilon``, ``gamma``, ``z_plus``
            and ``alpha2_beta1`` are for every layer. ``epsilon_plus``, ``epsilon_gamma_box``, ``epsilon_alpha2_beta1``
            have ε for dense layers and z⁺, γ, αβ for convolutions; ``box``, ``flat`` at the end is the first one's.
        epsilon: what the ε rule adds to the size of an output; 0 is allowed: nothing is divided by it.
        gamma: how much more the γ rule gives to what agrees with the output.

    Returns:
        Values ``(N, *shape)`` in logits; the error, the share of the logit that the map does not add up to; and as
        extras ``absorbed (N,)``, that difference in logits, and the ``reference (N,)`` the sum is told from, 0.

    Raises:
        InputError: if the network calls a function that relevance cannot pass, or an option is out of range.
    """
    rules = rules_of(composite, epsilon, gamma)
    value, values, _ = model.propagate(x, logit(target), lambda run, leaf, _: Relevance(rules, model.bounds)(run, leaf))
    total = values.flatten(1).sum(1).to(value.dtype)
    absorbed, nothing = value - total, torch.zeros_like(value)  # relevance shares out the logit itself, from 0 up
    error = baselines.incompleteness(total, nothing, value)
    return Map(values, error, {"absorbed": absorbed, "reference": nothing})
