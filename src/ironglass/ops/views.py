"""Data views: how a sample is cut into parts, and what stands where a part is taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ironglass.core.errors import InputError, suggest
from ironglass.core.values import Bounds

from . import baselines
from .superpixels import grid, superpixels

Baseline = str | float | None
SPREAD = 2**0.5
"""Multiples of an irrational number, modulo 1, are spread evenly: how a draw picks a value for each column."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Samples cut into parts, any of which can be taken away.

    Args:
        x: samples ``(N, *shape)``.
        labels: the part of each cell, long ``(N or 1, *cells)``; -1 where a cell is in none and always stays. Cells
            are the sample's values, without the axis that parts know nothing of.
        count: of parts, the same for all samples; a part may be empty.
        removed: what stands where parts are gone ``(N, *shape)``, or rows to draw it from ``(B, *shape)``.
        drawn: whether ``removed`` is drawn from.
        axis: the axis of ``x`` that cells do not have, such as an image's channels.
        layers: for parts that overlap, such as bands of sound: layers ``(N, L, *shape)`` that add up to the sample
            less what is removed; cells then have an axis of layers before the sample's own.
        bins: for each column of ``removed`` the edges ``(edges, columns)`` between values that count as alike; a kept
            column takes any such value. Without bins it keeps its own.
    """

    x: Tensor
    labels: Tensor
    count: int
    removed: Tensor
    drawn: bool = False
    axis: int | None = None
    layers: Tensor | None = None
    bins: Tensor | None = None

    def masked(self, keep: Tensor, rows: Tensor, draw: Tensor | None = None) -> Tensor:
        """Returns samples of which only some parts are left ``(n * S, *shape)``, S of each.

        Args:
            keep: true for the parts that stay ``(n, S, parts)``.
            rows: which samples ``(n,)``.
            draw: numbers from 0 up ``(n, S)`` that say what is drawn in place of the parts that go.
        """
        stays = self._cells(keep, rows)
        if self.layers is not None:
            found = self.removed[rows, None] + (self.layers[rows, None] * stays).sum(2)
        elif not self.drawn:
            found = torch.where(stays, self.x[rows, None], self.removed[rows, None])
        else:
            assert draw is not None
            found = torch.where(stays, self._own(rows, draw), self.removed[draw % len(self.removed)])
        return found.flatten(0, 1)

    def spread(self, weights: Tensor) -> Tensor:
        """Returns a map ``(N, *cells)`` whose cells have the weight of their part, 0 where they are in none."""
        labels = self.labels.expand(len(weights), *self.labels.shape[1:]).flatten(1)
        found = weights.gather(1, labels.clamp_min(0)).where(labels >= 0, 0)
        return found.reshape(len(weights), *self.labels.shape[1:])

    def sizes(self) -> Tensor:
        """Returns how many cells each part has ``(N, parts)``."""
        flat = self.labels.flatten(1)
        counts = torch.zeros(len(flat), self.count + 1, dtype=torch.long, device=flat.device)
        counts.scatter_add_(1, flat.remainder(self.count + 1), torch.ones_like(flat))  # -1 counts in the last
        return counts[:, : self.count].expand(len(self.x), -1)

    def alike(self, row: int, values: Tensor | None = None) -> Tensor:
        """Returns where values ``(n, columns)``, by default the rows to draw from, count as like that sample's."""
        return self._bin(self.removed if values is None else values) == self._bin(self.x[row : row + 1])

    def _cells(self, keep: Tensor, rows: Tensor) -> Tensor:
        """Returns ``keep`` at each cell ``(n, S, *cells)``, with an axis of 1 for the one that cells do not have."""
        padded = torch.nn.functional.pad(keep, (0, 1), value=True)  # where a cell in no part, -1, finds itself
        labels = self.labels if len(self.labels) == 1 else self.labels[rows]
        at = labels.flatten(1).remainder(self.count + 1)[:, None].expand(len(keep), keep.shape[1], -1)
        cells = padded.gather(2, at).reshape(*keep.shape[:2], *self.labels.shape[1:])
        return cells if self.axis is None else cells.unsqueeze(self.axis + 1 + (self.layers is not None))

    def _bin(self, values: Tensor) -> Tensor:
        """Returns the bin of each value of rows ``(n, columns)``; the value itself without bins."""
        if self.bins is None:
            return values
        return torch.searchsorted(self.bins.T.contiguous(), values.T.contiguous()).T

    def _own(self, rows: Tensor, draw: Tensor) -> Tensor:
        """Returns the samples themselves, or with bins other values alike to theirs, one of each for every draw."""
        x = self.x[rows]
        if self.bins is None:
            return x[:, None]
        ordered, bins = self.removed.sort(0).values, self._bin(x)
        ends = torch.searchsorted(ordered.T.contiguous(), self.bins.T.contiguous(), right=True).T
        ends = torch.cat([torch.zeros_like(ends[:1]), ends, torch.full_like(ends[:1], len(ordered))])
        low, high = ends.gather(0, bins)[:, None], ends.gather(0, bins + 1)[:, None]
        column = torch.arange(1, x.shape[1] + 1, dtype=torch.float64, device=x.device)
        share = (draw[..., None].double() * (column * SPREAD + column.sqrt())) % 1
        place = (low + (share * (high - low)).long()).clamp(max=len(ordered) - 1)
        return torch.where(high > low, ordered.gather(0, place.flatten(0, 1)).reshape(place.shape), x[:, None])


class View(Protocol):
    """How samples of one kind are cut."""

    def cut(self, x: Tensor, bounds: Bounds, baseline: Baseline) -> Parts:
        """Returns the samples in parts.

        Args:
            x: samples ``(N, *shape)``.
            bounds: the range of the input.
            baseline: what stands where parts are gone; None for the view's own choice.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """An image ``(C, H, W)``: its parts are regions; in their place stands their own mean colour.

    Args:
        parts: how many regions, about.
        regions: ``superpixels``, ``grid``, or the region of each pixel, long ``(H, W)`` from 0 up, -1 for none.
    """

    parts: int = 49
    regions: str | Tensor = "superpixels"

    def cut(self, x: Tensor, bounds: Bounds, baseline: Baseline) -> Parts:
        """Returns the images in regions, the same number in each."""
        _wants(x, (4,), "an image (C, H, W)", "view='table', 'text' or 'audio'")
        if isinstance(self.regions, Tensor):
            if self.regions.shape != x.shape[2:] or self.regions.is_floating_point():
                given = f"{self.regions.dtype} {tuple(self.regions.shape)}"
                raise InputError(f"regions are {given}", f"give a long tensor {tuple(x.shape[2:])}: one region a pixel")
            labels = self.regions.long().to(x.device)[None]
        elif self.regions == "grid":
            labels = grid(x, self.parts)
        elif self.regions == "superpixels":
            labels = superpixels(x / bounds.span, self.parts)
        else:
            names = ("superpixels", "grid")
            raise InputError(f"no regions are called '{self.regions}'", suggest(str(self.regions), names))
        most = labels if isinstance(self.regions, Tensor) else grid(x, self.parts)
        count = int(most.max()) + 1
        if baseline is None or baseline == "parts":
            return Parts(x, labels, count, _means(x, labels, count), axis=1)
        return Parts(x, labels, count, baselines.baseline(x, bounds, baseline), axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A row of columns ``(d,)``: its parts are columns; in their place stand those of other rows.

    Args:
        background: the rows ``(B, d)`` to draw from; the middle of the bounds where None.
        bins: values of a column in the same of so many quantile bins count as alike, to rules about them; 0 if only
            equal values do.
    """

    background: Tensor | None = None
    bins: int = 0

    def cut(self, x: Tensor, bounds: Bounds, baseline: Baseline) -> Parts:
        """Returns the rows in columns."""
        _wants(x, (2,), "a row of columns (d,)", "view='superpixels', 'grid' or 'audio'")
        labels = torch.arange(x.shape[1], device=x.device)[None]
        if self.background is None:
            removed = baselines.baseline(x, bounds, "mid" if baseline is None else baseline)
            return Parts(x, labels, x.shape[1], removed)
        if baseline is not None:
            raise InputError(f"baseline={baseline!r} beside a background", "leave one of them out")
        rows = self.background.to(x)
        if rows.ndim != 2 or rows.shape[1] != x.shape[1] or not len(rows):
            raise InputError(f"a background {tuple(rows.shape)}", f"give rows of {x.shape[1]} columns")
        at = [len(rows) * k // self.bins for k in range(1, self.bins)]
        edges = rows.sort(0).values[at] if at else None
        return Parts(x, labels, x.shape[1], rows, drawn=True, bins=edges)


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """Tokens as numbers ``(T,)`` or as vectors ``(T, E)``: its parts are tokens; in their place stands 0.

    Args:
        padding: the number of the token that fills a text up; it is no part and always stays.
    """

    padding: float | None = None

    def cut(self, x: Tensor, bounds: Bounds, baseline: Baseline) -> Parts:
        """Returns the texts in tokens."""
        _wants(x, (2, 3), "tokens (T,) or (T, E)", "view='superpixels' or 'grid'")
        labels = torch.arange(x.shape[1], device=x.device)[None]
        if self.padding is not None:
            blank = x == self.padding
            labels = labels.where(~(blank if x.ndim == 2 else blank.all(2)), -1)
        removed = baselines.baseline(x, bounds, 0.0 if baseline is None else baseline)
        return Parts(x, labels, x.shape[1], removed, axis=2 if x.ndim == 3 else None)


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """Sound ``(T,)`` or ``(C, T)``: its parts are stretches of time, in bands of frequency; silence in their place.

    Args:
        parts: how many stretches.
        bands: how many bands, each of the same width up to the highest frequency.
    """

    parts: int = 20
    bands: int = 1

    def cut(self, x: Tensor, bounds: Bounds, baseline: Baseline) -> Parts:
        """Returns the sounds in stretches of time and bands of frequency."""
        _wants(x, (2, 3), "sound (T,) or (C, T)", "view='superpixels' or 'grid'")
        length, axis = x.shape[-1], 1 if x.ndim == 3 else None
        stretches = min(self.parts, length)
        time = torch.arange(length, device=x.device) * stretches // length
        removed = baselines.baseline(x, bounds, 0.0 if baseline is None else baseline)
        if self.bands == 1:
            return Parts(x, time[None], stretches, removed, axis=axis)
        labels = torch.arange(self.bands, device=x.device)[:, None] * stretches + time
        spectrum = torch.fft.rfft(x - removed)
        band = torch.arange(spectrum.shape[-1], device=x.device) * self.bands // spectrum.shape[-1]
        layers = [torch.fft.irfft(spectrum * (band == each), n=length) for each in range(self.bands)]
        return Parts(x, labels[None], self.bands * stretches, removed, axis=axis, layers=torch.stack(layers, 1))


VIEWS: dict[str, View] = {
    "superpixels": Image(),
    "grid": Image(regions="grid"),
    "table": Table(),
    "text": Text(),
    "audio": Audio(),
}


def cut(x: Tensor, bounds: Bounds, view: View | str | None = None, baseline: Baseline = None) -> Parts:
    """Returns samples in parts.

    Args:
        x: samples ``(N, *shape)``.
        bounds: the range of the input.
        view: a view, or ``superpixels``, ``grid``, ``table``, ``text`` or ``audio``; None to tell by the shape:
            ``(C, H, W)`` is an image, ``(1, T)`` and ``(2, T)`` are sound, other ``(T, E)`` text, ``(d,)`` a table.
        baseline: what stands where parts are gone; None for the view's own choice.

    Raises:
        InputError: if there is no such view, or the samples have not its shape.
    """
    if view is None:
        kinds = {2: "table", 3: "audio" if x.shape[1] <= 2 else "text", 4: "superpixels"}
        if x.ndim not in kinds:
            raise InputError(f"samples of shape {tuple(x.shape[1:])} fit no view", "give view= a view of your own")
        view = kinds[x.ndim]
    if isinstance(view, str):
        if view not in VIEWS:
            raise InputError(f"no view is called '{view}'", suggest(view, VIEWS))
        view = VIEWS[view]
    if not hasattr(view, "cut"):
        raise InputError("a saved result does not hold its view", "explain again with the view given")
    return view.cut(x, bounds, baseline)


def _wants(x: Tensor, ndims: tuple[int, ...], what: str, fix: str) -> None:
    if x.ndim not in ndims:
        raise InputError(f"this view wants {what}, samples here have shape {tuple(x.shape[1:])}", fix)


def _means(x: Tensor, labels: Tensor, count: int) -> Tensor:
    """Returns images whose pixels have the mean colour of their region; those in none keep their own."""
    at = labels.expand(len(x), *labels.shape[1:]).flatten(1)[:, None].expand(-1, x.shape[1], -1)
    index, flat = at.remainder(count + 1), x.flatten(2)
    sums = flat.new_zeros(*flat.shape[:2], count + 1).scatter_add_(2, index, flat)
    sizes = flat.new_zeros(*flat.shape[:2], count + 1).scatter_add_(2, index, torch.ones_like(flat))
    means = (sums / sizes.clamp_min(1)).gather(2, index)
    return torch.where(at >= 0, means, flat).reshape(x.shape)
