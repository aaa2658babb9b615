r"""How relevance passes a linear layer: the rules, each as the paper writes it.

A layer computes :math:`z_j = \sum_i x_i w_{ij} + b_j`. A rule gives the relevance :math:`R_i` of its inputs from that
of its outputs. It travels as a modified gradient :math:`G`, with :math:`R = z\,G`: so layers that merely add or move
values need no rule, and no quotient is taken that the rule does not ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Twin:
    """What is known of values that are still those of the input, moved, shifted or scaled one by one.

    Args:
        relay: 1 for each value and 0 for padding; the gradient to it is relevance, not relevance over value.
        low: the least that each value can be.
        high: the greatest.
    """

    relay: Tensor
    low: Tensor
    high: Tensor

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Returns the ends in their order; a negative factor swaps them."""
        return torch.minimum(self.low, self.high), torch.maximum(self.low, self.high)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One call of a linear layer.

    Args:
        function: ``function(x, weight, bias, *rest)``.
        x: its input.
        weight: its weight; outputs along the first dimension, but for ``matmul``.
        bias: its bias, or None.
        rest: stride, padding and so on.
        twin: if the input's values are still those of the network's input.
    """

    function: Callable[..., Tensor]
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    rest: tuple[Any, ...] = ()
    twin: Twin | None = None

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns the layer's output for other inputs and weights."""
        return self.function(x, weight, bias, *self.rest)

    def adjoint(self, weight: Tensor, seed: Tensor) -> Tensor:
        """Returns the gradient of ``(seed * run(x, weight)).sum()`` to the input."""
        name = getattr(self.function, "__name__", "")
        if name == "linear":
            return seed @ weight
        if name in ("conv1d", "conv2d", "conv3d"):
            rest: list[Any] = [*self.rest, *(1, 0, 1, 1)[len(self.rest) :]]
            stride, padding, dilation, groups = rest
            sizes = [_tuple(value, weight.ndim - 2) for value in (stride, padding, dilation)]
            if not isinstance(padding, str):
                options = (*sizes, False, [0] * (weight.ndim - 2), groups, (True, False, False))
                found = torch.ops.aten.convolution_backward(seed, self.x, weight, None, *options)
                return cast(Tensor, found[0])
        with torch.enable_grad():
            leaf = self.x.detach().requires_grad_()
            return torch.autograd.grad(self.run(leaf, weight), leaf, seed)[0]


def _tuple(value: Any, size: int) -> Any:
    if isinstance(value, str):
        return value
    values = [value] * size if isinstance(value, int) else list(value)
    return values * size if len(values) == 1 else values


def over(a: Tensor, b: Tensor) -> Tensor:
    """Returns ``a / b``, and 0 where b is 0: no contributions, nothing to share out. It may overwrite both.

    Args:
        a: what is shared out.
        b: sums of contributions of one sign, at least 0.
    """
    return a.div_(F.threshold(b, 0, torch.inf, inplace=True))  # a mask costs an unforeseen branch a value


def _part(bias: Tensor | None, sign: int) -> Tensor | None:
    return None if bias is None else bias.clamp(min=0) if sign > 0 else bias.clamp(max=0)


def _signed(x: Tensor) -> bool:
    return bool(x.amin() < 0)


def _signs(x: Tensor) -> Tensor:
    """Returns -1 where a value is negative, else 1."""
    return torch.copysign(torch.ones((), dtype=x.dtype, device=x.device), x)


def contributions(layer: Layer, sign: Literal[1, -1], signed: bool) -> Tensor:
    """Returns the sum of each output's contributions of one sign, the bias among them.

    Args:
        layer: a linear layer.
        sign: of the contributions.
        signed: whether some of its inputs are negative.
    """
    weight, bias = _part(layer.weight, sign), _part(layer.bias, sign)
    assert weight is not None
    if not signed:
        return layer.run(layer.x, weight, bias)
    other = cast(Tensor, _part(layer.weight, -sign))
    return layer.run(layer.x.clamp(min=0), weight, bias).add_(layer.run(layer.x.clamp(max=0), other))


@dataclass(frozen=True, slots=True)
class Epsilon:
    r"""LRP-ε: :math:`R_i = \sum_j \frac{x_i w_{ij}}{z_j + \epsilon\,\mathrm{sign}(z_j)} R_j`; LRP-0 where ε is 0."""

    epsilon: float = 1e-6
    direct = False


@dataclass(frozen=True, slots=True)
class Gamma:
    r"""LRP-γ, for inputs of either sign: contributions of the output's own sign weigh :math:`1 + \gamma`.

    .. math:: R_i = \sum_j \frac{c_{ij} + \gamma c_{ij}^{s_j}}{z_j + \gamma z_j^{s_j}} R_j,\qquad
              c_{ij} = x_i w_{ij},\; s_j = \mathrm{sign}(z_j)
    """

    gamma: float = 0.25
    direct = False

    def pull(self, layer: Layer, z: Tensor, grad: Tensor) -> Tensor:
        """Returns the modified gradient of the inputs."""
        # With a = 1 + γ/2 and b = γ/2, c + γ c⁺ = a c + b |c| and c + γ c⁻ = a c - b |c|: so the favoured sum is
        # sign(z) (a |z| + b t), where t sums all |c|, and what it gets is shared by c and |c| alone, of any signs.
        a, b = 1 + self.gamma / 2, self.gamma / 2
        signed, weight = _signed(layer.x), layer.weight.abs().mul_(b)
        bias = None if layer.bias is None else layer.bias.abs().mul_(b)
        total = layer.run(layer.x.abs() if signed else layer.x, weight, bias).add_(z.abs(), alpha=a)
        share = z / total.clamp_min_(torch.finfo(z.dtype).tiny)  # 0 / 0: no contributions, nothing to share out
        agreeing, negative = share * grad, share.clamp(max=0).mul_(grad)
        if not signed and float(negative.amin()) == float(negative.amax()) == 0:  # as behind a ReLU
            return layer.adjoint(weight.add_(layer.weight, alpha=a), agreeing)
        seed = negative.mul_(-2).add_(agreeing)
        favoured = layer.adjoint(weight, agreeing)
        if signed:
            favoured.mul_(_signs(layer.x))
        return favoured.add_(layer.adjoint(layer.weight, seed), alpha=a)


@dataclass(frozen=True, slots=True)
class AlphaBeta:
    r"""LRP-αβ, with :math:`\alpha - \beta = 1`; :math:`\alpha = 1, \beta = 0` is the z⁺ rule.

    .. math:: R_i = \sum_j \Big(\alpha\frac{c_{ij}^+}{z_j^+} - \beta\frac{c_{ij}^-}{z_j^-}\Big) R_j

    An output that gets relevance but no contribution of a sign cannot hand that part on: it is lost, as the formula has
    it. That happens where no ReLU follows, as in front of a sum, and in layers of few inputs.
    """

    alpha: float = 2.0
    beta: float = 1.0
    direct = False

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise InputError(f"alpha={self.alpha}, beta={self.beta} do not conserve relevance", "take alpha - beta = 1")

    def pull(self, layer: Layer, z: Tensor, grad: Tensor) -> Tensor:
        """Returns the modified gradient of the inputs."""
        signed = _signed(layer.x)
        if (signed or self.beta) and layer.weight[0].numel() >= MANY:
            found = self._by_sizes(layer, z, grad, signed)
            if found is not None:
                return found
        relevance = z * grad
        up, down = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
        for_ = over(relevance * self.alpha, contributions(layer, 1, signed))
        against = over(relevance * self.beta, contributions(layer, -1, signed).neg_()) if self.beta else None

        def pulled(up: Tensor, down: Tensor) -> Tensor:
            found = layer.adjoint(up, for_)
            return found if against is None else found.add_(layer.adjoint(down, against))

        return torch.where(layer.x < 0, pulled(down, up), pulled(up, down)) if signed else pulled(up, down)

    def _by_sizes(self, layer: Layer, z: Tensor, grad: Tensor, signed: bool) -> Tensor | None:
        r"""Returns the same by two convolutions each way, or None where a sum would be lost in a difference.

        With :math:`t_j = \sum_i |c_{ij}|` the sums are :math:`z^\pm = (z \pm t) / 2`, with :math:`r = z / t` parts
        :math:`(1 \pm r) / 2` of it; and what is shared out by :math:`c^\pm = (c \pm |c|) / 2` is shared by :math:`c`
        and :math:`|c|` alone, of inputs of any sign.
        """
        sizes, bias = layer.weight.abs(), None if layer.bias is None else layer.bias.abs()
        total = layer.run(layer.x.abs() if signed else layer.x, sizes, bias)
        ratio = z / total.clamp_min_(torch.finfo(z.dtype).tiny)
        if not self._clear(ratio) and not self._clear(ratio.masked_fill_(grad == 0, 0)):
            return None
        shared = ratio * grad
        if self.beta:  # as alpha - beta = 1, alpha / (1 + r) +- beta / (1 - r) over one denominator
            both, one = self.alpha + self.beta, torch.ones((), dtype=z.dtype, device=z.device)
            shared.div_(torch.addcmul(one, ratio, ratio, value=-1))
            even = (both - ratio).mul_(shared)
            odd = torch.add(one, ratio, alpha=-both).mul_(shared)
        else:
            even = odd = shared.div_(ratio.add_(1))
        favoured = layer.adjoint(sizes, odd)
        if signed:
            favoured.mul_(_signs(layer.x))
        return favoured.add_(layer.adjoint(layer.weight, even))

    def _clear(self, ratio: Tensor) -> bool:
        """Whether the sums that are needed come out of their difference with few digits lost."""
        least, most = float(ratio.amin()), float(ratio.amax())
        return least > CLEAR - 1 and (not self.beta or most < 1 - CLEAR)


CLEAR = 1e-2
"""How much of all contributions those of one sign must be to be told by a difference."""

MANY = 32
"""Of how many contributions that is likely."""


@dataclass(frozen=True, slots=True)
class Flat:
    r"""Shares an output's relevance evenly among its inputs, whatever they are: :math:`R_i = \sum_j R_j / n_j`."""

    direct = True

    def pull(self, layer: Layer, z: Tensor, grad: Tensor) -> Tensor:
        """Returns the relevance of the inputs."""
        twin, ones = cast(Twin, layer.twin), torch.ones_like(layer.weight)
        seed = over(z * grad, layer.run(twin.relay, ones))
        return twin.relay * layer.adjoint(ones, seed)


@dataclass(frozen=True, slots=True)
class Box:
    r"""The :math:`z^{\mathcal B}` rule, for inputs in a box :math:`[l, h]`.

    .. math:: R_i = \sum_j \frac{x_i w_{ij} - l_i w_{ij}^+ - h_i w_{ij}^-}
              {\sum_k x_k w_{kj} - l_k w_{kj}^+ - h_k w_{kj}^-} R_j
    """

    direct = True

    def pull(self, layer: Layer, z: Tensor, grad: Tensor) -> Tensor:
        """Returns the relevance of the inputs."""
        low, high = cast(Twin, layer.twin).bounds()
        up, under, span = layer.weight.clamp(min=0), layer.x - high, high - low  # as w⁻ = w - w⁺
        seed = over(z * grad, layer.run(under, layer.weight).add_(layer.run(span, up)))
        return under * layer.adjoint(layer.weight, seed) + span * layer.adjoint(up, seed)


Rule = Epsilon | Gamma | AlphaBeta | Flat | Box


class _Stabilized(torch.autograd.Function):
    """The identity, whose backward pass loses the stabilizer's share."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.epsilon = epsilon
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        size = z.abs()
        return size.div_(size + ctx.epsilon).mul_(grads[0]), None


class _Pulled(torch.autograd.Function):
    """A value whose backward pass is a rule."""

    @staticmethod
    def forward(ctx: Any, value: list[Tensor], pull: Callable[[Tensor], Tensor], source: Tensor) -> Tensor:
        ctx.pull = pull
        return value[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.pull(grads[0])


def stabilized(z: Tensor, rule: Epsilon) -> Tensor:
    """Returns ``z``; its gradient is scaled by ``|z| / (|z| + ε)``."""
    return cast(Tensor, _Stabilized.apply(z, rule.epsilon)) if rule.epsilon else z  # type: ignore[no-untyped-call]


def pulled(value: Tensor, pull: Callable[[Tensor], Tensor], source: Tensor) -> Tensor:
    """Returns a value anew, and makes ``pull`` its backward pass to ``source``."""
    return cast(Tensor, _Pulled.apply([value.detach()], pull, source))  # type: ignore[no-untyped-call]
