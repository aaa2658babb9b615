"""Debugging mispredictions: what spoke for the wrong class, for the right one, and for the one over the other."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ironglass.core.errors import InputError
from ironglass.core.findings import Gallery, Table
from ironglass.core.method import Explain, get
from ironglass.core.results import Attribution
from ironglass.core.values import Bounds
from ironglass.models.adapter import Adapter, check, wrap
from ironglass.ops import baselines, targets
from ironglass.ops.again import onto_input
from ironglass.ops.removal import places

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Parts of a sample that are taken away, to see when the answer turns right."""
TITLES = ("for the wrong class", "for the right class", "for the wrong, not the right")


@dataclass(frozen=True, slots=True, eq=False)
class Mispredictions:
    """The worst cases and their maps, the surest mistake first.

    Args:
        rows: of the samples among those given ``(n,)``.
        y: what they are ``(n,)``.
        predicted: what the model says ``(n,)``.
        confidence: the probability it gives to that ``(n,)``.
        lead: of the wrong logit over the right one ``(n,)``.
        turns: the smallest part of the sample, that of most contrast, without which the right class leads the wrong one
            ``(n,)``; infinite where that is so of no part that was tried.
        wrong: maps of the wrong class.
        right: maps of the right class.
        contrast: maps of what the wrong class leads the right one by.
        names: of the classes.
        bounds: of the samples.
    """

    rows: Tensor
    y: Tensor
    predicted: Tensor
    confidence: Tensor
    lead: Tensor
    turns: Tensor
    wrong: Attribution
    right: Attribution
    contrast: Attribution
    names: tuple[str, ...]
    bounds: Bounds

    def __len__(self) -> int:
        return len(self.rows)

    def table(self) -> Table:
        """Returns a row a case."""
        rows = []
        for i in range(len(self)):
            share = float(self.turns[i])
            rows.append(
                (
                    str(int(self.rows[i])),
                    self._name(self.y[i]),
                    self._name(self.predicted[i]),
                    f"{float(self.confidence[i]):.1%}",
                    f"{float(self.lead[i]):.2f}",
                    f"{share:.0%} of it" if share <= 1 else f"more than {SHARES[-1]:.0%}",
                )
            )
        return Table(
            id="misprediction",
            caption="The surest mistakes, and how much of the sample, what speaks most for the wrong class over the "
            "right one first, has to go until the right one leads",
            columns=("sample", "is", "is taken for", "confidence", "lead in logits", "turns without"),
            rows=tuple(rows),
        )

    def gallery(self) -> Gallery:
        """Returns the samples and their three maps as pictures for a report.

        Raises:
            InputError: if the samples are no pictures.
        """
        draw = importlib.import_module("ironglass.audit.pictures")  # drawing stands above, and is found when called
        if not draw.drawable(self.wrong.x):
            raise InputError(f"samples are {tuple(self.wrong.x.shape)}, no pictures", "see .table()")
        rows = []
        for i in range(len(self)):
            said = f"{self._name(self.predicted[i])} instead of {self._name(self.y[i])}"
            maps = (each.values[i] for each in (self.wrong, self.right, self.contrast))
            photo = draw.photo(self.wrong.x[i], self.bounds, f"Sample {int(self.rows[i])}: {said}", said)
            signed = any(bool((each.values < 0).any()) for each in (self.wrong, self.right, self.contrast))
            heats = (
                draw.heat(values, f"Map of sample {int(self.rows[i])}: what speaks {title}", signed=signed)
                for values, title in zip(maps, TITLES, strict=True)
            )
            rows.append((photo, *heats))
        return Gallery(
            id="misprediction",
            caption=f"The surest mistakes, explained by {self.wrong.method}",
            columns=("sample", *(f"speaks {title}" for title in TITLES)),
            rows=tuple(rows),
            scale="Signed maps: red speaks for it, blue against it, pale grey is zero. Unsigned maps: brighter is "
            "more. Each map is scaled to its own largest values.",
        )

    def plot(self, rows: int = 6) -> Figure:
        """Returns a matplotlib figure: a row a case, the sample and its three maps."""
        plots = importlib.import_module("ironglass.report.plots")
        figure = cast("Figure", plots.plot(self.wrong, self.right, self.contrast, rows=rows, names=self.names))
        across = len(figure.axes) // min(rows, len(self))
        for axis, title in zip(figure.axes[across - 3 : across], TITLES, strict=True):
            axis.set_title(title, fontsize=8)
        for i, axis in enumerate(figure.axes[::across] if across == 4 else ()):
            axis.set_ylabel(f"{self._name(self.predicted[i])}\nis {self._name(self.y[i])}", fontsize=8)
        return figure

    def _name(self, label: Tensor) -> str:
        return self.names[int(label)] if self.names else f"class {int(label)}"


def misprediction(
    model: nn.Module | Adapter,
    x: Tensor,
    y: Tensor,
    *,
    method: str | Explain[...] = "lrp",
    cases: int = 4,
    baseline: str | float = "mean",
) -> Mispredictions:
    r"""Explain the surest mistakes of a model: the wrong class, the right class, and the one against the other.

    .. math:: R^{\text{wrong}} \text{ of } f_{\hat y}, \quad R^{\text{right}} \text{ of } f_y, \quad
        R^{\text{contrast}} \text{ of } f_{\hat y} - f_y

    What two classes share, as the sky behind bird and plane, speaks for both and shows in the first two maps; the
    contrast leaves what decides between them. It is put to the test: the places of most contrast are taken away until
    the right class leads the wrong one.

    Args:
        model: the network, or a wrapped model.
        x: samples ``(N, *shape)``.
        y: what they are ``(N,)``.
        method: the explanation, by name, or with options fixed: ``ig.explain.lrp.with_(composite="epsilon")``.
        cases: at most so many, the surest first.
        baseline: what is left of a place that is taken away, as in deletion.

    Raises:
        InputError: if the model makes no mistake on these samples, the method explains no class, or an option is out
            of range.
    """
    chosen = cast("Explain[Any]", get(method, "explain")) if isinstance(method, str) else method
    if chosen.card.decorator != "explain" or cases < 1:
        raise InputError(f"method={chosen.card.name}, cases={cases}", "an explanation, e.g. 'lrp'; at least 1 case")
    adapter = wrap(model)
    check(adapter, x, y)
    scores = adapter.scores(x).double()
    predicted = scores.argmax(1)
    sure = scores.softmax(1).amax(1)
    mistakes = (predicted != y).nonzero()[:, 0]
    if not len(mistakes):
        raise InputError(f"the model labels all {len(x)} samples right", "give samples that it gets wrong")
    rows = mistakes[sure[mistakes].argsort(descending=True, stable=True)][:cases]
    wrong, right, part = predicted[rows], y[rows], x[rows]
    pairs = torch.stack([wrong, right], 1)
    maps = [chosen(adapter, part, target) for target in (wrong, right, pairs)]
    return Mispredictions(
        rows=rows,
        y=right,
        predicted=wrong,
        confidence=sure[rows],
        lead=targets.at(scores[rows], pairs),
        turns=_turns(adapter, part, pairs, maps[2].values, baseline),
        wrong=maps[0],
        right=maps[1],
        contrast=maps[2],
        names=tuple(adapter.names),
        bounds=adapter.bounds,
    )


def _turns(model: Adapter, x: Tensor, pairs: Tensor, contrast: Tensor, baseline: str | float) -> Tensor:
    """Returns the smallest part tried, places of most contrast first, without which the pair's lead turns ``(n,)``."""
    bare = baselines.baseline(x, model.bounds, baseline)
    worth = places(onto_input(contrast, x), x)
    rank = worth.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    shape = (len(x), 1, *x.shape[2:]) if x.ndim == 4 else x.shape
    turns = torch.full((len(x),), torch.inf, dtype=torch.double)
    for share in reversed(SHARES):
        gone = (rank < share * rank.shape[1]).reshape(shape)
        turns[(targets.at(model.scores(torch.where(gone, bare, x)), pairs) < 0).cpu()] = share
    return turns
