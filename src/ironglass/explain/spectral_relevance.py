"""Spectral relevance analysis: does a model decide by a shortcut?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.access import Model
from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError
from ironglass.core.method import get, study
from ironglass.core.statistics import bootstrap, wilson
from ironglass.core.values import Threat
from ironglass.ops import spectral
from ironglass.ops.again import values

COLUMNS = ("suspicion", "of the class", "localised", "constant", "carries", "by chance")
LEAST = 8
"""A group of fewer samples is not judged."""
AREA = 1 / 16
"""The largest place a shortcut can take, as a part of the picture."""
TRIALS = 200
"""Pictures of other classes that a place is pasted into, at most."""
Figure = tuple[float, float, float]
Box = tuple[int, int, int, int]
UNKNOWN: Figure = (0.0, 0.0, 1.0)


class Subject(NamedTuple):
    """A model, the samples it is watched on, their labels, what it says of them, and their pooled maps, of sum 1.

    ``line`` is the model's place among the models, ``rows`` are the samples' among all of them.
    """

    line: int
    rows: Tensor
    model: Model
    x: Tensor
    y: Tensor
    predicted: Tensor
    maps: Tensor


class Group(NamedTuple):
    """A group of a class: its members, the place they look at (top, left, bottom, right), and a figure a column."""

    number: int
    members: Tensor
    place: Box
    figures: tuple[Figure, ...]
    counts: tuple[int, ...]


class Found(NamedTuple):
    """What is found in a class: its groups, the worst first; its samples, the group of each, and the eigengap."""

    subject: Subject
    groups: list[Group]
    own: Tensor
    labels: Tensor
    gap: float


@study(
    title="Spectral relevance analysis",
    paper="lapuschkin2019",
    access="internals",
    cost="2 + 2 * clusters * classes",
    scope="global",
    kind="specific",
    explains="model",
    lecture="finding a Clever Hans: clusters of relevance maps",
)
def spectral_relevance(
    models: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    threat: Threat | None = None,
    *,
    method: str = "lrp",
    cells: int = 16,
    neighbours: int = 8,
    clusters: int = 4,
    samples: int = 200,
    accuse: float = 0.33,
    seed: int = 0,
) -> Study:
    r"""Group the relevance maps of each class, and name the groups that look at one small place and decide by it.

    .. math:: L = I - D^{-1/2} A D^{-1/2}, \qquad K = \arg\max_k \lambda_{k+1} - \lambda_k, \qquad
        s = \bigl(\text{localised} \cdot \text{constant} \cdot (\text{carries} - \text{by chance})\bigr)^{1/3}

    What speaks for the label in a map is pooled to a coarse grid and brought to sum 1. The graph of nearest neighbours
    joins maps of a class that are alike; its eigenvectors group them, as many groups as the widest eigengap says. A
    shortcut, such as a watermark, lies in the same place all over its group. So each group gets the smallest box that
    holds nearly as much more of its relevance than of the other classes' as any; and that box is tried: copied from
    members of the group into pictures that the model takes for another class, does it make them this class?

    - *localised*: the mean part of the members' relevance in the box, less that of the other classes' samples.
    - *constant*: the share of members with more relevance there than 95 % of the other classes' samples have.
    - *carries*: the share of other pictures that become this class when the box of a member is copied in.
    - *by chance*: the same, the box taken from pictures of other classes.

    The paper stops at the groups, which a person then looks at; the box, the trial and the score are ours. Give samples
    as the model was trained on: a shortcut that the data do not show cannot be found. It takes a place that moves, or
    a shortcut that is everywhere (a hue, a texture), for none; and where a class *is* one small thing in one place, as
    the figure on a speed limit sign, it is named, and it is for a person to say whether that is right.

    Args:
        method: the explanation, at its own defaults.
        cells: of the grid along the longer side.
        neighbours: a map has in the graph.
        clusters: groups a class, at most.
        samples: of a class, at most, drawn by their content.
        accuse: the suspicion that names a group if its interval's lower end reaches it.
        seed: of all draws.

    Returns:
        A row a class: its most suspicious group. ``notes`` says in words who is named, and where. As extras
        ``named (rows,)``; ``group (rows,)``, the number of that group, from the largest on; its ``place (rows, 4)``,
        top, left, bottom, right in pixels; its ``mean_map (rows, h, w)``; ``clusters`` and ``eigengap (rows,)`` of the
        class; and, a line a model, ``cluster (models, N)``, the group of each sample in its class, -1 where it is not
        drawn, and ``member (models, N)``: whether it belongs to a named group.

    Raises:
        InputError: if samples are no pictures, or an option is out of range.
    """
    if x.ndim != 4:
        raise InputError(
            f"samples are {tuple(x.shape)}, pictures (N, C, H, W) are expected", "a shortcut has a place in a picture"
        )
    if cells < 4 or neighbours < 1 or clusters < 1 or samples < LEAST or not 0 < accuse <= 1:
        raise InputError(
            f"cells={cells}, neighbours={neighbours}, clusters={clusters}, samples={samples}, accuse={accuse}",
            f"cells ≥ 4, neighbours and clusters ≥ 1, samples ≥ {LEAST}, 0 < accuse ≤ 1",
        )
    options = get(method).card.filled({})
    names: list[str] = []
    found: list[Found] = []
    for line, (title, model) in enumerate(models.items()):
        rows = _drawn(model, y, samples, seed)
        part, seen = model.take(rows), x[rows]
        maps = _pooled(values(method, part, seen, y[rows], options), cells)
        subject = Subject(line, rows, part, seen, y[rows], part.scores(seen).argmax(1), maps)
        for label in range(model.classes):
            name = model.names[label] if model.names else f"class {label}"
            names.append(name if len(models) == 1 else f"{title}: {name}")
            found.append(_examined(subject, label, neighbours, clusters, seed))
    return _study(x, y, len(models), names, found, accuse, seed)


def _drawn(model: Model, y: Tensor, samples: int, seed: int) -> Tensor:
    """Returns the rows of at most so many samples of each class, in their order."""
    order = model.draws(seed).uniform().argsort(stable=True)
    kept = [order[y[order] == label][:samples] for label in range(model.classes)]
    return torch.cat(kept).sort().values


def _pooled(maps: Tensor, cells: int) -> Tensor:
    """Returns what speaks for the target, on a grid of at most ``cells`` a side, of sum 1 ``(n, h, w)``."""
    plane = (maps.sum(1) if maps.ndim == 4 else maps).clamp(min=0).double()
    height, width = plane.shape[1:]
    scale = min(1.0, cells / max(height, width))
    grid = F.adaptive_avg_pool2d(plane[:, None], (max(1, round(height * scale)), max(1, round(width * scale))))[:, 0]
    return grid / grid.sum((1, 2), keepdim=True).clamp(min=1e-300)


def _examined(subject: Subject, label: int, neighbours: int, clusters: int, seed: int) -> Found:
    """Groups the maps of a class and tries each group's place."""
    own = (subject.y == label).nonzero()[:, 0]
    if len(own) < LEAST or len(own) == len(subject.y):
        return Found(subject, [], own, torch.full_like(own, -1), 0.0)
    grouped = spectral.groups(subject.maps[own].flatten(1), neighbours, clusters, seed)
    parts = [own[grouped.labels == group] for group in range(int(grouped.labels.max()) + 1)]
    judged = [
        _judged(subject, label, number, part, len(own), seed) for number, part in enumerate(parts) if len(part) >= LEAST
    ]
    return Found(subject, sorted(judged, key=lambda group: -group.figures[0][0]), own, grouped.labels, grouped.gap)


def _judged(subject: Subject, label: int, number: int, members: Tensor, size: int, seed: int) -> Group:
    """Finds the place that sets a group apart, and tries it on pictures of other classes."""
    others = (subject.y != label).nonzero()[:, 0]
    top, left, bottom, right = cells = _box(subject.maps[members].mean(0) - subject.maps[others].mean(0))
    held = subject.maps[:, top:bottom, left:right].sum((1, 2))
    excess = held[members] - held[others].mean()
    constant = int((held[members] > held[others].quantile(0.95)).sum())
    place = _pixels(cells, subject.maps.shape[1:], subject.x.shape[2:])
    takers = others[subject.predicted[others] != label]
    draws = subject.model.draws(seed)
    takers = takers[draws.uniform(rows=takers).argsort(stable=True)[:TRIALS]]
    chosen = draws.uniform(rows=takers, dtype=torch.float64)
    carried, chance = (
        _taken(subject, label, takers, givers[(chosen * len(givers)).long()], place) for givers in (members, others)
    )
    means = [
        (float(excess.mean()), *bootstrap(excess.tolist(), seed=seed)),
        *(_share(k, n) for k, n in ((constant, len(members)), (carried, len(takers)), (chance, len(takers)))),
    ]
    edges = zip(*means[:3], strict=True)
    suspicion = [(max(a, 0.0) * b * max(c - means[3][0], 0.0)) ** (1 / 3) for a, b, c in edges]
    figures = ((suspicion[0], suspicion[1], suspicion[2]), _share(len(members), size), *means)
    counts = (min(len(members), len(takers)), size, len(members), len(members), len(takers), len(takers))
    return Group(number, members, place, figures, counts)


def _share(k: int, n: int) -> Figure:
    return (k / n if n else 0.0, *wilson(k, n))


def _taken(subject: Subject, label: int, takers: Tensor, givers: Tensor, place: Box) -> int:
    """Returns how many pictures become the class when a box is copied into each from another ``(n,)``."""
    if not len(takers):
        return 0
    top, left, bottom, right = place
    changed = subject.x[takers].clone()
    changed[..., top:bottom, left:right] = subject.x[givers][..., top:bottom, left:right]
    return int((subject.model.scores(changed, takers).argmax(1) == label).sum())


def _box(excess: Tensor) -> Box:
    """Returns the smallest box of cells that holds nine tenths of what any allowed box holds.

    Args:
        excess: of relevance a cell, in the mean of a group over that of others ``(h, w)``.
    """
    height, width = excess.shape
    summed = F.pad(excess.cumsum(0).cumsum(1), (1, 0, 1, 0))
    found = []
    for h in range(1, height + 1):
        for w in range(1, width + 1):
            if h * w > max(1.0, AREA * height * width):
                break
            sums = summed[h:, w:] - summed[:-h, w:] - summed[h:, :-w] + summed[:-h, :-w]
            row, column = divmod(int(sums.argmax()), sums.shape[1])
            found.append((float(sums.max()), h * w, (row, column, row + h, column + w)))
    most = max(held for held, _, _ in found)
    return min((area, -held, box) for held, area, box in found if held >= most - 0.1 * abs(most))[2]


def _pixels(box: Box, grid: torch.Size, size: torch.Size) -> Box:
    """Returns the pixels that a box of cells was pooled from."""
    (top, left, bottom, right), (h, w), (height, width) = box, grid, size
    return top * height // h, left * width // w, -(-bottom * height // h), -(-right * width // w)


def _study(x: Tensor, y: Tensor, models: int, names: list[str], found: list[Found], accuse: float, seed: int) -> Study:
    """Puts the worst group of each class into a table, and those that are accused into words."""
    none = Group(-1, torch.empty(0, dtype=torch.long), (0, 0, 0, 0), (UNKNOWN,) * len(COLUMNS), (0,) * len(COLUMNS))
    worst = [each.groups[0] if each.groups else none for each in found]
    figures = torch.tensor([group.figures for group in worst], dtype=torch.double)
    cluster, member = torch.full((models, len(y)), -1), torch.zeros(models, len(y), dtype=torch.bool)
    notes, named = [], []
    for name, (subject, groups, own, labels, _) in zip(names, found, strict=True):
        cluster[subject.line, subject.rows[own].cpu()] = labels.cpu()
        guilty = [group for group in groups if group.figures[0][1] >= accuse]
        named.append(bool(guilty))
        for group in guilty:
            member[subject.line, subject.rows[group.members].cpu()] = True
            notes.append(_said(name, group, len(own)))
    return Study(
        x=x,
        y=y,
        method="spectral_relevance",
        row_names=tuple(names),
        column_names=COLUMNS,
        values=figures[..., 0],
        low=figures[..., 1],
        high=figures[..., 2],
        counts=torch.tensor([group.counts for group in worst]),
        caption="The most suspicious group of each class's relevance maps, with 95 % intervals",
        row_head="class",
        seed=seed,
        notes=tuple(notes),
        extras={
            "named": torch.tensor(named),
            "place": torch.tensor([group.place for group in worst]),
            "group": torch.tensor([group.number for group in worst]),
            "clusters": torch.tensor([max(each.labels.tolist(), default=-1) + 1 for each in found]),
            "eigengap": torch.tensor([each.gap for each in found], dtype=torch.double),
            "mean_map": torch.stack(
                [_mean(each.subject.maps[group.members]) for each, group in zip(found, worst, strict=True)]
            ),
            "cluster": cluster,
            "member": member,
        },
    )


def _mean(maps: Tensor) -> Tensor:
    return maps.sum(0) / max(len(maps), 1)


def _said(name: str, group: Group, size: int) -> str:
    """Returns in words what a group is accused of."""
    top, left, bottom, right = group.place
    _, _, (localised, *_), _, (carries, *_), (chance, *_) = group.figures
    return (
        f"{name}: group {group.number}, {len(group.members)} of {size} samples, looks at rows {top} to {bottom - 1}, "
        f"columns {left} to {right - 1}: {localised:.0%} of its relevance lies there beyond what others have. Copied "
        f"into other pictures, that place makes {carries:.0%} of them {name}; by chance {chance:.0%}."
    )
