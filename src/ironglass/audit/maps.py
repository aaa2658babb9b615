"""What the report shows of explanations: the maps, and which of them to believe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ironglass.core.catalogue import catalogue
from ironglass.core.findings import Gallery, Table
from ironglass.core.results import Attribution
from ironglass.models.adapter import Adapter

from . import pictures
from .evidence import Evidence

ABREAST = 3
HEADS = {
    "completeness": "completeness error",
    "parameter_randomization": "similarity after the weights are drawn anew",
    "deletion": "area under deletion",
    "insertion": "area under insertion",
}
LAST = {"parameter_randomization": -1}
"""Which figure of a test's several is shown, where it is not the first."""


def belief(found: Evidence) -> str:
    """Which maps to believe: those that pass every test of dependence on the model, and those that do not."""
    tested = {
        name: bool(score.passed.all())
        for (metric, name), score in found.scores.items()
        if metric == "parameter_randomization"
    }
    if not tested:
        return "The maps below were not tested."
    titles = {name: catalogue()[name].title for name in tested}
    good = ", ".join(titles[name] for name, passed in tested.items() if passed)
    bad = ", ".join(titles[name] for name, passed in tested.items() if not passed)
    said = (
        f"Maps that depend on what the model has learned, on every sample tested: {good}." if good else "",
        f"Do not argue from: {bad}." if bad else "",
    )
    return " ".join(filter(None, said))


def galleries(found: Evidence, model: Adapter, ids: Sequence[str]) -> Iterator[Gallery]:
    """The explained samples beside their maps, a few methods a gallery."""
    methods = list(found.attributions.items())
    for start in range(0, len(methods), ABREAST):
        yield _beside(found, model, ids, methods[start : start + ABREAST], start // ABREAST)


def _beside(
    found: Evidence, model: Adapter, ids: Sequence[str], methods: Sequence[tuple[str, Attribution]], part: int
) -> Gallery:
    rows, heads = [], []
    for place, row in enumerate(found.explained.tolist()):
        decided = model.name_of(int(found.labels[row]))
        name = ids[row]
        line = f"{decided}" + ("" if bool(found.correct[row]) else f" (label: {model.name_of(int(found.y[row]))})")
        cells = [pictures.photo(found.x[row], model.bounds, f"{name}, decided as {decided}", line)]
        for method, attribution in methods:
            values = attribution.values[place]
            signed = bool((values < 0).any())
            total = float(values.double().sum())
            alt = f"{catalogue()[method].title} of {name} for {decided}; the map sums to {total:.3g}"
            cells.append(pictures.heat(values, alt, f"sum {total:.3g}", signed=signed))
        rows.append(tuple(cells))
        heads.append(name)
    return Gallery(
        id="maps" if not part else f"maps-{part + 1}",
        caption="What speaks for the decision, by each method",
        columns=("sample", *(catalogue()[method].title for method, _ in methods)),
        rows=tuple(rows),
        row_heads=tuple(heads),
        scale="Signed maps: red speaks for the decision, blue against it, pale grey is zero. Unsigned maps: "
        "brighter is more. Each map is scaled to its own largest values.",
    )


def beliefs(found: Evidence) -> Table:
    """The figures of every test of every map."""
    metrics = list(dict.fromkeys(metric for metric, _ in found.scores))
    rows = []
    for name, attribution in found.attributions.items():
        count = len(attribution)
        cells = [catalogue()[name].title, f"{(attribution.cost.forward + attribution.cost.backward) / count:,.0f}"]
        for metric in metrics:
            score = found.scores.get((metric, name))
            if score is None:
                cells.append("—")
                continue
            last = score.values if score.values.ndim == 1 else score.values[:, LAST.get(metric, 0)]
            cells.append(f"{float(last.median()):.3g} ({int(score.passed.sum())} of {count} pass)")
        rows.append(tuple(cells))
    return Table(
        id="beliefs",
        caption="Can these maps be believed? Medians over the explained samples, and how many of them pass",
        columns=("method", "passes / sample", *(HEADS.get(name, catalogue()[name].title) for name in metrics)),
        rows=tuple(rows),
    )


def features(found: Evidence, model: Adapter, ids: Sequence[str]) -> Table:
    """For inputs that are no pictures: the values that count most, by the first signed method."""
    name, attribution = next(iter(found.attributions.items()))
    for other, candidate in found.attributions.items():
        if bool((candidate.values < 0).any()):
            name, attribution = other, candidate
            break
    flat = attribution.values.flatten(1)
    rows = []
    for place, row in enumerate(found.explained.tolist()):
        top = flat[place].abs().topk(min(5, flat.shape[1])).indices.tolist()
        listed = ", ".join(f"feature {i}: {float(flat[place, i]):+.3g}" for i in top)
        rows.append((ids[row], model.name_of(int(found.labels[row])), listed))
    return Table(
        id="features",
        caption=f"The values that count most, by {catalogue()[name].title}",
        columns=("sample", "decision", "largest parts"),
        rows=tuple(rows),
    )
