"""Black-box adversarial reprogramming: a frozen model learns a new task through its input, from scores alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.core.findings import Table
from ironglass.core.statistics import wilson
from ironglass.models.adapter import Adapter, wrap
from ironglass.ops.estimators import Kind, Probe, RandomDirections, tile_of

Pair = tuple[Tensor, Tensor]
Progress = Callable[[int, int, float], None]
"""Is told the epochs done, the epochs in all, and the mean loss of the last one."""
CHUNK = 256
"""Pictures that are shown the source at once when nothing is learned."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A task that a frozen source does through its input.

    Args:
        source: the model, asked for scores.
        weights: of the frame ``(*shape of the source)``.
        frame: where the frame is, 1, and where the task's picture is, 0.
        mapping: source classes that vote for each class of the task ``(classes, m)``, all distinct.
        losses: the mean loss of each epoch.
        queries: pictures shown to the source for learning; and for the mapping, by name.
        options: of the learning.
    """

    source: Adapter
    weights: Tensor
    frame: Tensor
    mapping: Tensor
    losses: tuple[float, ...]
    queries: Mapping[str, int]
    options: Mapping[str, object] = field(default_factory=dict)

    def inputs(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        r"""Returns what the source is shown: the pictures within :math:`\tanh(W \odot M)`, in units of the bounds."""
        bounds = self.source.bounds
        half, middle = bounds.span / 2, (bounds.high + bounds.low) / 2
        shown = middle + half * torch.tanh((self.weights if weights is None else weights) * self.frame)
        return torch.where(self.frame != 0, shown, embedded(x, tuple(self.frame.shape), self.frame).to(shown))

    def scores(self, x: Tensor) -> Tensor:
        """Returns the log-probabilities of the task's classes ``(N, classes)``, up to a constant."""
        parts = [self.source.scores(self.inputs(part)) for part in torch.split(x, CHUNK)]
        return voted(torch.cat(parts), self.mapping)

    def predict(self, x: Tensor) -> Tensor:
        """Returns the task's labels ``(N,)``."""
        return self.scores(x).argmax(1)

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """Returns the share of samples that are labelled right."""
        return float((self.predict(x) == y).double().mean())

    def table(self, x: Tensor, y: Tensor) -> Table:
        """Returns the accuracy with Wilson's interval, the mapping, and what the learning cost."""
        right = int((self.predict(x) == y).sum())
        low, high = wilson(right, len(y))
        names = [", ".join(self.source.name_of(int(label)) for label in row) for row in self.mapping]
        rows = [("accuracy", f"{right / len(y):.1%} [{100 * low:.0f}, {100 * high:.0f}]")]
        rows += [(f"queries, {name}", f"{count:,}") for name, count in self.queries.items()]
        rows += [(f"class {label}", name) for label, name in enumerate(names)]
        return Table(
            id="reprogramming",
            caption="A task that a frozen model does through its input",
            columns=("what", "value"),
            rows=tuple(rows),
        )


def reprogramming(
    source: object,
    data: Pair,
    *,
    shape: tuple[int, ...] | None = None,
    size: int | None = None,
    labels: int = 1,
    mapping: Tensor | None = None,
    epochs: int = 10,
    batch: int = 16,
    samples: int = 20,
    radius: float = 0.03,
    lr: float = 0.05,
    focal: float = 0.0,
    tile: int | None = None,
    directions: Kind = "signs",
    max_queries: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Program:
    r"""Learn a frame about the task's pictures that makes a frozen classifier do another task (tsai2020bar).

    .. math:: x' = \mathrm{pad}(x) + \tanh(W \odot M), \qquad
        p_k(x) = \frac1m \sum_{s \in h(k)} f_s(x'), \qquad
        \hat g = \frac{d}{q\mu} \sum_j \bigl(L(W + \mu u_j) - L(W)\bigr)\,u_j

    The picture of the task stands in the middle of the source's input and ``M`` is 1 around it. The source gives scores
    alone: every gradient is estimated from them, by random directions of ``W``, and Adam makes the step with a rate
    that falls to 0. Source classes are given to the task's by frequency: for each class of the task the source's mean
    probabilities are ranked, and the largest that is free is taken, until each has ``labels`` of them. An epoch costs
    ``n (samples + 1)`` queries, the mapping ``n``; the first look that wrapping takes, at most 8, is beside them.

    Args:
        source: a network, a function that gives scores, or a wrapped model.
        data: samples ``(N, *shape)`` in the source's units, as many channels as the source has or one, and labels
            ``(N,)`` from 0.
        shape: of the source's input; that of the wrapped model if None.
        size: side of the task's picture within it; its own if None. Pictures are resized bilinearly.
        labels: source classes for each class of the task.
        mapping: source classes for each class ``(classes, labels)``; by frequency if None.
        epochs: over the samples.
        batch: samples a step.
        samples: directions a step, of the frame's values.
        radius: ``μ``, in units of ``W``: the length of a whole difference. Losses of natural networks bend soon.
        lr: the first rate of Adam.
        focal: exponent of the focal loss; 0 for cross-entropy.
        tile: side of the squares of the frame's values that move alike; 1 for single values, a fourteenth of a picture
            if None. The fewer they are, the more a query tells of them; but a network whose gradient is fine-grained
            learns little through coarse ones, even from its true gradient.
        directions: ``sphere``, ``gaussian``, or ``signs``: corners of a cube, cheap to draw.
        max_queries: pictures shown to the source at most; the learning ends where a step cannot be paid.
        seed: of directions and order.
        progress: is called after each epoch with the epochs done, the epochs in all, and the mean loss.

    Returns:
        The program: it predicts, and knows its queries.

    Raises:
        InputError: if shapes do not fit, there are too few source classes, or an option is out of range.
    """
    x, y = data
    if len(x) != len(y) or len(x) == 0:
        raise InputError(f"{len(y)} labels for {len(x)} samples", "give one label a sample")
    if min(labels, batch, samples) < 1 or epochs < 0 or not (radius > 0 and lr > 0 and focal >= 0):
        given = f"labels={labels}, batch={batch}, samples={samples}, epochs={epochs}, radius={radius}, lr={lr}"
        raise InputError(given, "give at least 1 of each, and radius and lr above 0")
    model = wrap(source)  # type: ignore[arg-type]
    whole = model.shape if shape is None else tuple(shape)
    if whole is None:
        raise InputError("the source's input shape is not known", "give shape=, e.g. (3, 224, 224)")
    frame = framed(whole, tuple(x.shape[1:]), size).to(x)
    weights = torch.zeros(whole, dtype=x.dtype, device=x.device)
    classes = int(y.max()) + 1
    empty = torch.zeros(classes, labels, dtype=torch.long)
    program = Program(model, weights, frame, empty, (), {"mapping": 0, "learning": 0})
    model.probe(program.inputs(x[:8]))
    queries = 0
    if mapping is None:
        if max_queries is not None and max_queries < len(x):
            raise InputError(f"max_queries={max_queries} does not pay for the mapping of {len(x)} samples", "mapping=")
        scores = torch.cat([model.scores(program.inputs(part)) for part in torch.split(x, CHUNK)])
        mapping, queries = frequency_mapping(scores, y, classes, labels), len(x)
    _check_mapping(mapping, classes, model.classes)
    program = replace(program, mapping=mapping.to(y.device))
    left = None if max_queries is None else max_queries - queries
    losses, paid = _learn(
        program,
        x,
        y,
        epochs,
        batch,
        RandomDirections(samples, radius, directions, tile_of(whole, tile)),
        lr,
        focal,
        left,
        seed,
        progress,
    )
    options: dict[str, object] = {
        "labels": labels,
        "epochs": epochs,
        "batch": batch,
        "samples": samples,
        "radius": radius,
        "lr": lr,
    }
    options |= {"focal": focal, "tile": tile, "directions": directions, "max_queries": max_queries, "seed": seed}
    return replace(program, losses=tuple(losses), queries={"mapping": queries, "learning": paid}, options=options)


def _learn(
    program: Program,
    x: Tensor,
    y: Tensor,
    epochs: int,
    batch: int,
    estimate: RandomDirections,
    lr: float,
    focal: float,
    left: int | None,
    seed: int,
    progress: Progress | None,
) -> tuple[list[float], int]:
    """Learns the weights in place, and returns the losses of the epochs and the queries made."""
    weights, paid = program.weights, 0
    losses: list[float] = []
    flat = weights[None]
    draws = Draws(torch.tensor([seed]), seed, weights.device)
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.nn.Parameter(weights)
    optimizer = torch.optim.Adam([parameter], lr)
    steps = max(epochs * -(-len(x) // batch), 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    mask = program.frame[None]
    for epoch in range(epochs):
        total = 0.0
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in torch.split(order, batch):
            cost = len(rows)
            if left is not None and left - paid < cost * (estimate.count + 1):
                return [*losses, total / len(x)] if total else losses, paid
            part, label = x[rows], y[rows]

            def ask(points: Tensor, rows: Tensor, count: Tensor, part: Tensor = part, label: Tensor = label) -> Tensor:
                nonlocal paid
                paid += len(part) * points.shape[1]
                several = torch.split(points[0], max(CHUNK // len(part), 1))
                return torch.cat([_losses(program, part, label, some, focal) for some in several])[None]

            one = torch.zeros(1, dtype=torch.long, device=x.device)
            base = ask(flat[:, None], one, one)[:, 0]
            many = torch.full((1,), estimate.count, device=x.device)
            grad = estimate(Probe(ask, lambda points, rows: points, flat, one, many, draws, base, mask))
            parameter.grad = grad[0]
            optimizer.step()
            schedule.step()
            total += float(base) * cost
        losses.append(total / len(x))
        if progress is not None:
            progress(epoch + 1, epochs, losses[-1])
    return losses, paid


def _losses(program: Program, x: Tensor, y: Tensor, weights: Tensor, focal: float) -> Tensor:
    """Returns the mean loss under each of several frames ``(k,)``: cross-entropy, or ``(1 - p)^γ`` times it."""
    shown = torch.cat([program.inputs(x, one) for one in weights])
    chance = voted(program.source.scores(shown), program.mapping)
    value = F.cross_entropy(chance, y.repeat(len(weights)), reduction="none")
    value = (1 - (-value).exp()) ** focal * value if focal else value
    return value.reshape(len(weights), len(y)).mean(1)


def voted(scores: Tensor, mapping: Tensor) -> Tensor:
    """Returns the logarithm of the mean probability of each class's source labels ``(N, classes)``."""
    log = scores.log_softmax(1)[:, mapping.to(scores.device)]
    return log.logsumexp(2) - torch.tensor(float(mapping.shape[1])).log()


def frequency_mapping(scores: Tensor, y: Tensor, classes: int, labels: int = 1) -> Tensor:
    """Returns the source labels for each class ``(classes, labels)``: those the source itself gives it most.

    Each class in turn takes the largest of its mean probabilities that is free; none is shared.

    Args:
        scores: of the source for the task's samples ``(N, source classes)``.
        y: their classes ``(N,)``.
        classes: of the task.
        labels: for each.

    Raises:
        InputError: if the source has too few classes, or a class has no sample.
    """
    if classes * labels > scores.shape[1]:
        raise InputError(
            f"{classes} classes of {labels} labels each, the source has {scores.shape[1]}", "give fewer labels="
        )
    counts = torch.bincount(y, minlength=classes)
    if bool((counts == 0).any()):
        raise InputError(f"samples a class: {counts.tolist()}", "give at least one sample of each class")
    chance = scores.softmax(1).double()
    mean = torch.zeros(classes, scores.shape[1], dtype=torch.double, device=scores.device).index_add_(0, y, chance)
    mean /= counts[:, None]
    taken = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
    chosen: list[list[int]] = [[] for _ in range(classes)]
    for _ in range(labels):
        for label in range(classes):
            best = int(mean[label].masked_fill(taken, -1).argmax())
            chosen[label].append(best)
            taken[best] = True
    return torch.tensor(chosen)


def framed(whole: tuple[int, ...], shape: tuple[int, ...], size: int | None) -> Tensor:
    """Returns where the frame is, 1, about a picture in the middle of the source's input, 0.

    Args:
        whole: shape of the source's input ``(C, H, W)``, or ``(d,)``.
        shape: of the task's samples.
        size: side of the picture in it; its own if None.

    Raises:
        InputError: if the picture does not fit, or leaves no frame.
    """
    plane, own = whole[-2:] if len(whole) > 1 else whole, shape[-2:] if len(whole) > 1 else shape
    inner = own if size is None or len(whole) == 1 else (size, size)
    channels = _channels(whole), _channels(shape)
    if (
        len(whole) != len(shape)
        or channels[1] not in (1, channels[0])
        or any(a > b for a, b in zip(inner, plane, strict=True))
    ):
        raise InputError(f"samples {shape} of size {inner} do not fit in the source's input {whole}", "give size=")
    if inner == plane:
        raise InputError(f"pictures of size {inner} leave no frame in the source's input {whole}", "a smaller size=")
    frame = torch.zeros(whole)
    for axis, (a, b) in enumerate(zip(inner, plane, strict=True), len(whole) - len(plane)):
        inside = torch.arange(b)
        inside = (inside >= (b - a) // 2) & (inside < (b - a) // 2 + a)
        frame = frame + (~inside).float().reshape(-1, *(1,) * (len(whole) - 1 - axis))
    return (frame > 0).float()


def embedded(x: Tensor, whole: tuple[int, ...], frame: Tensor) -> Tensor:
    """Returns the pictures ``(N, *shape)`` resized into the middle of the source's input, and 0 around."""
    empty = (frame == 0).reshape(-1, *frame.shape[-2:])[0] if frame.ndim > 1 else frame == 0
    out = x.new_zeros(len(x), *whole)
    if frame.ndim == 1:
        out[:, empty] = x
        return out
    tall, wide = int(empty.any(1).sum()), int(empty.any(0).sum())
    top, left = int(empty.any(1).int().argmax()), int(empty.any(0).int().argmax())
    if (tall, wide) != tuple(x.shape[-2:]):
        planes = x if x.ndim == 4 else x[:, None]
        x = F.interpolate(planes, (tall, wide), mode="bilinear", align_corners=False).reshape(*x.shape[:-2], tall, wide)
    out[..., top : top + tall, left : left + wide] = x
    return out


def _check_mapping(mapping: Tensor, classes: int, known: int) -> None:
    """Refuses a mapping that is no choice of distinct source labels."""
    flat = mapping.flatten().tolist()
    if (
        mapping.ndim != 2
        or len(mapping) != classes
        or len(set(flat)) != len(flat)
        or not all(0 <= label < known for label in flat)
    ):
        raise InputError(
            f"a mapping of shape {tuple(mapping.shape)} for {classes} classes and {known} source labels",
            "give distinct source labels (classes, labels), or None to choose them by frequency",
        )


def _channels(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) > 2 else 1
