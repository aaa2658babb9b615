"""Can a model's confidence be believed?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.diagnosis import Study
from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.core.method import study
from ironglass.core.statistics import wilson
from ironglass.core.values import Threat
from ironglass.ops.calibration import Reliability, reliability, temperature

COLUMNS = ("accuracy", "confidence", "calibration error", "scaled confidence", "error when scaled")


@study(
    title="Calibration",
    paper="guo2017",
    access="scores",
    cost="1",
    scope="global",
    lecture="uncertainty: calibration",
)
def calibration(
    models: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    threat: Threat | None,
    *,
    bins: int = 15,
    resamples: int = 200,
    seed: int = 0,
) -> Study:
    r"""Compare confidence with accuracy, before and after one temperature has been fitted.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n}\, |\mathrm{acc}_b - \mathrm{conf}_b|, \qquad
        p = \mathrm{softmax}(z / T)

    The temperature of least cross-entropy is fitted on a random half of the samples; all figures are of the other half.
    The calibration error of a perfectly calibrated model is above 0 on a finite sample: the notes say how large it
    would be on the mean, were the labels drawn from the model's own probabilities.

    Args:
        bins: of equal width.
        resamples: of the bootstrap intervals of the calibration error, and of labels drawn from the model.
        seed: of the halves, the bootstrap and the labels drawn.

    Returns:
        A row a model. ``extras`` hold the temperatures, and the bins' counts, confidences and accuracies.

    Raises:
        InputError: if there are too few samples to halve.
    """
    if len(x) < 4 or resamples < 1:
        raise InputError(f"{len(x)} samples, resamples={resamples}", "give at least 4 samples and 1 resample")
    draws = Draws(torch.arange(resamples + 1), seed)
    fitted = torch.zeros(len(x), dtype=torch.bool)
    fitted[draws.uniform((len(x),))[0].argsort()[: len(x) // 2]] = True
    rows, notes = [], []
    extras: dict[str, Tensor] = {}
    bags = draws.below(len(x) - len(x) // 2, (len(x) - len(x) // 2,))[1:]
    luck = draws.uniform((len(x) - len(x) // 2,))[1:]
    for name, model in models.items():
        scores = model.scores(x).cpu().double()
        at = temperature(scores[fitted], y.cpu()[fitted])
        kept, labels = scores[~fitted], y.cpu()[~fitted]
        found = [_figures(kept / scale, labels, bins, bags) for scale in (1.0, at)]
        plain = found[0][0]
        accuracy = int((kept.argmax(1) == labels).sum())
        rows.append([(accuracy / len(labels), *wilson(accuracy, len(labels))), *found[0][1:], *found[1][1:]])
        extras |= {f"{name}: {part}": getattr(plain, part) for part in Reliability._fields[:3]}
        extras[f"{name}: temperature"] = torch.tensor([at])
        chance = _by_chance(kept.softmax(1), luck, bins)
        notes.append(f"{name}: temperature {at:.3g}; were it calibrated, its error would be {chance:.1%} on the mean")
    table = torch.tensor(rows, dtype=torch.float64)
    return Study(
        x=x,
        method="calibration",
        options={"bins": bins, "resamples": resamples, "seed": seed},
        y=y,
        row_names=tuple(models),
        column_names=COLUMNS,
        values=table[..., 0],
        low=table[..., 1],
        high=table[..., 2],
        counts=torch.full(table.shape[:2], len(x) - len(x) // 2),
        caption=f"Confidence and accuracy, on {len(x) - len(x) // 2} samples",
        row_head="model",
        seed=seed,
        notes=tuple(notes),
        extras=extras,
    )


Figure = tuple[float, float, float]


def _figures(scores: Tensor, y: Tensor, bins: int, bags: Tensor) -> tuple[Reliability, Figure, Figure]:
    """Returns the bins, and the mean confidence and the calibration error in their intervals."""
    p = scores.softmax(1)
    plain = reliability(p, y, bins)
    sure = p.amax(1)
    half = 1.96 * float(sure.std()) / len(sure) ** 0.5
    again = torch.tensor([reliability(p[bag], y[bag], bins).error for bag in bags], dtype=torch.float64)
    low, high = again.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    mean = float(sure.mean())
    return plain, (mean, mean - half, mean + half), (plain.error, min(low, plain.error), max(high, plain.error))


def _by_chance(p: Tensor, luck: Tensor, bins: int) -> float:
    """Returns the mean calibration error of labels drawn from the probabilities themselves."""
    steps = p.cumsum(1)
    drawn = [torch.searchsorted(steps, each[:, None].double())[:, 0].clamp(max=p.shape[1] - 1) for each in luck]
    return sum(reliability(p, y, bins).error for y in drawn) / len(drawn)
