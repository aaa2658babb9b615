"""What several predictions say together: how much is unknown, what noise explains, and what more data could tell."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.draws import Draws
from ironglass.core.errors import InputError


class Parts(NamedTuple):
    """Total uncertainty and its two parts, ``total = aleatoric + epistemic``.

    Args:
        mean: the mean prediction ``(N, K, …)``.
        total: of the mean prediction ``(N, …)``.
        aleatoric: the mean of each draw's own: noise that more data would not take away.
        epistemic: the rest: where the draws disagree.
        variance: of the predictions over the draws ``(N, K, …)``.
    """

    mean: Tensor
    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    variance: Tensor


def entropy(probabilities: Tensor, dim: int) -> Tensor:
    r"""Returns :math:`-\sum_k p_k \log p_k` in nats, with :math:`0 \log 0 = 0`."""
    return -torch.xlogy(probabilities, probabilities).sum(dim)


def of_classes(probabilities: Tensor) -> Parts:
    r"""Splits the entropy of the mean prediction into expected entropy and mutual information.

    .. math:: H\bigl[\mathbb E_t\, p_t\bigr] = \mathbb E_t\, H[p_t] + I

    Args:
        probabilities: of each draw ``(T, N, K, …)``; trailing dimensions are places, such as pixels.
    """
    mean = probabilities.mean(0)
    total, own = entropy(mean, 1), entropy(probabilities, 2).mean(0)
    return Parts(mean, total, own, (total - own).clamp(min=0), probabilities.var(0, correction=0))


def of_values(mean: Tensor, log_variance: Tensor | None) -> Parts:
    r"""Splits the variance of a prediction by the law of total variance.

    .. math:: \mathrm{Var}\, y = \mathbb E_t\, \sigma_t^2 + \mathrm{Var}_t\, \mu_t

    Args:
        mean: of each draw, μ ``(T, N, K, …)``.
        log_variance: of each draw, :math:`\log \sigma^2`, of that shape; None where noise is not predicted.

    Returns:
        The parts, each summed over the K values.
    """
    spread = mean.var(0, correction=0)
    noise = torch.zeros_like(spread) if log_variance is None else log_variance.exp().mean(0)
    return Parts(mean.mean(0), (noise + spread).sum(1), noise.sum(1), spread.sum(1), spread)


def noisy(logits: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    r"""Returns the mean probabilities of noisy logits, :math:`\mathbb E\,\mathrm{softmax}(f + \sigma\epsilon)`.

    Args:
        logits: f ``(…, K, …)`` with classes in dimension 1.
        log_variance: :math:`\log \sigma^2`, of that shape.
        noise: draws of ε ``(S, *logits.shape)``.
    """
    return (logits + (log_variance / 2).exp() * noise).softmax(2).mean(0)


def attenuated_loss(mean: Tensor, log_variance: Tensor, y: Tensor) -> Tensor:
    r"""Returns the loss of a regression that learns its own noise (kendall2017), a value an output.

    .. math:: \tfrac12 e^{-s} (y - \mu)^2 + \tfrac12 s, \qquad s = \log \sigma^2

    Args:
        mean: μ.
        log_variance: s.
        y: what is to be predicted.
    """
    return 0.5 * ((-log_variance).exp() * (y - mean).square() + log_variance)


def noisy_cross_entropy(logits: Tensor, log_variance: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    r"""Returns the loss of a classifier that learns the noise of its logits (kendall2017), a value a sample and place.

    .. math:: -\log \frac1S \sum_s \mathrm{softmax}(f + \sigma \epsilon_s)_y

    It is taken over logarithms: the mean of tiny probabilities does not underflow.

    Args:
        logits: f ``(N, K, …)``.
        log_variance: :math:`\log \sigma^2`, of that shape.
        y: labels ``(N, …)``.
        noise: draws of ε ``(S, N, K, …)``.
    """
    log_p = (logits + (log_variance / 2).exp() * noise).log_softmax(2)
    own = log_p.gather(2, y[None, :, None].expand(len(noise), *y[:, None].shape))[:, :, 0]
    return -(own.logsumexp(0) - torch.tensor(float(len(noise))).log().item())


class Predicted(NamedTuple):
    """The predictions of several draws.

    Args:
        draws: probabilities of each draw, or values ``(T, N, K, …)``.
        log_variance: of the values, where the network tells it.
        classes: whether they are probabilities.
    """

    draws: Tensor
    log_variance: Tensor | None
    classes: bool


def predicted(out: Tensor, log_variance: Tensor | None, of: str, noise: int, seed: int) -> Predicted:
    """Makes predictions of networks' outputs ``(T, N, K, …)``; noise on logits is the same for every sample and place.

    Raises:
        InputError: if ``of`` is neither ``classes`` nor ``values``, or there is less than one draw of noise.
    """
    if of not in ("classes", "values") or noise < 1:
        raise InputError(f"of='{of}', noise={noise}", "of='classes' or 'values', noise of at least 1")
    if of == "values":
        return Predicted(out, log_variance, False)
    if log_variance is None:
        return Predicted(out.softmax(2), None, True)
    stream = Draws(torch.arange(noise, device=out.device), seed, out.device)
    each = stream.normal(out.shape[2:3]).reshape(noise, 1, -1, *(1,) * (out.ndim - 3)).to(out)
    return Predicted(torch.stack([noisy(*draw, each) for draw in zip(out, log_variance, strict=True)]), None, True)


def parts(found: Predicted) -> Parts:
    """Returns the uncertainty of predictions, and its parts."""
    return of_classes(found.draws) if found.classes else of_values(found.draws, found.log_variance)
