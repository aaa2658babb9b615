"""The sections of the report: the figures and tables that show what the findings state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ironglass.core.catalogue import catalogue
from ironglass.core.findings import Curve, Finding, Gallery, Picture, Section, Series, Table
from ironglass.core.results import AttackResult
from ironglass.core.statistics import wilson
from ironglass.models.adapter import Adapter

from . import maps, pictures, proof
from .evidence import Evidence
from .findings import blind, radius, size, spent
from .planning import Plan

UNITS = {"linf": "input units", "l2": "input units", "l1": "input units", "l0": "values", "wasserstein": "pixels"}
BUDGETS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000)


class Writer:
    """Writes the sections of one audit.

    Args:
        model: for names, bounds and units.
        found: the evidence.
        plan: what was done.
        findings: whose sentences head the sections.
        ids: the samples' names.
    """

    def __init__(
        self, model: Adapter, found: Evidence, plan: Plan, findings: Sequence[Finding], ids: Sequence[str]
    ) -> None:
        self._model, self._found, self._plan, self._findings, self._ids = model, found, plan, findings, ids

    def sections(self) -> tuple[Section, ...]:
        """Returns the sections that have something to show, in reading order."""
        parts = (self._data(), self._break(), self._rights(), self._real(), self._proof(), self._look())
        return tuple(section for section in parts if section is not None)

    def _sentence(self, section: str) -> str:
        return ". ".join(f.verdict.rstrip(".") for f in self._findings if f.section == section) + "."

    def _data(self) -> Section:
        found, model = self._found, self._model
        decided = found.labels
        sure = found.outputs.softmax(1).gather(1, decided[:, None])[:, 0]
        shown = min(len(found.y), 50)
        rows = tuple(
            (
                self._ids[i],
                model.name_of(int(found.y[i])),
                model.name_of(int(decided[i])),
                self._confidence(float(sure[i])),
            )
            for i in range(shown)
        )
        caption = "The samples, their labels and the model's decisions"
        table = Table(
            id="samples",
            caption=caption if shown == len(found.y) else f"{caption} (the first {shown} of {len(found.y)})",
            columns=("sample", "label", "decision", "confidence"),
            rows=rows,
        )
        return Section(id="model", title="Model and data", sentence=self._sentence("model"), tables=(table,))

    def _confidence(self, share: float) -> str:
        return "—" if self._model.access == "labels" else f"{share:.1%}"

    def _break(self) -> Section | None:
        found = self._found
        if not found.attacks or not bool(found.correct.any()):
            return None
        curve, gallery, least = self._accuracy_curve(), self._panda(), self._least_table()
        return Section(
            id="break",
            title="How hard is it to break?",
            sentence=self._sentence("break"),
            curves=(*((curve,) if curve else ()), *self._least_curves()),
            galleries=(gallery,) if gallery else (),
            tables=(self._attack_table(), *((least,) if least else ())),
        )

    def _accuracy_curve(self) -> Curve | None:
        """Accuracy among all samples against the radius: the attack, and random noise as the control."""
        found, plan = self._found, self._plan
        if not found.curve:
            return None
        total, right = len(found.y), int(found.correct.sum())
        alive = [int((~result.success).sum()) for _, result in found.curve]
        radii = [result.threat.eps for _, result in found.curve]
        lines = [
            _line("Clean", (plan.radii[0], plan.radii[-1]), (right, right), total, "clean"),
            _line(catalogue()[plan.curve or ""].title, radii, alive, total, "attack"),
        ]
        if found.control:
            control = [int((~result.success).sum()) for result in found.control]
            radii = [result.threat.eps for result in found.control]
            lines.append(_line(catalogue()[plan.suite.control].title, radii, control, total, "control"))
        whole = proof.sandwich(found, plan)
        if whole is not None:
            radii = sorted({certificate.threat.eps for _, certificate in found.proofs} | {plan.threat.eps})
            proven = [int((whole.lower >= eps).sum()) for eps in radii]
            lines.append(_line("Proven", radii, proven, total, "proof"))
        return Curve(
            id="accuracy",
            caption="Accuracy against the size of the change, with 95 % intervals",
            x_label=f"eps ({plan.threat.norm}, {UNITS[plan.threat.norm]})",
            y_label="accuracy",
            series=tuple(lines),
            log_x=True,
        )

    def _least_curves(self) -> Iterator[Curve]:
        """Accuracy among all samples against the radius, a norm a figure, by the smallest change found for each sample.

        Whatever is broken by some change is broken at every larger radius: one search tells the whole curve.
        """
        found, total = self._found, len(self._found.y)
        for norm in found.minima:
            least = found.least(norm)
            sizes = sorted({0.0, *(float(size) for size in least.tolist() if size < float("inf"))})
            if len(sizes) < 2:
                continue
            alive = [int((least > size).sum()) for size in sizes]
            steps = [(sizes[i + late], alive[i]) for i in range(len(sizes)) for late in (0, 1) if i + late < len(sizes)]
            titles = ", ".join(catalogue()[name].title for name in found.minima[norm])
            yield Curve(
                id=f"least-{norm}",
                caption=f"Accuracy against the size of the change in {norm}, by the smallest change found, "
                "with 95 % intervals",
                x_label=f"eps ({norm}, {UNITS[norm]})",
                y_label="accuracy",
                series=(_line(titles, [x for x, _ in steps], [count for _, count in steps], total, "attack"),),
            )

    def _least_table(self) -> Table | None:
        """The smallest changes found: how long they are, and the sample that breaks most easily."""
        found = self._found
        rows = []
        for norm in found.minima:
            least = found.least(norm)[found.correct].double()
            broken = least[least < float("inf")]
            if not len(broken):
                continue
            first = int(found.least(norm).where(found.correct, torch.inf).argmin())
            tenth, half = (float(broken.quantile(share)) for share in (0.1, 0.5))
            rows.append(
                (
                    norm,
                    f"{len(broken)} of {len(least)}",
                    f"{float(broken.min()):.3g} ({self._ids[first]})",
                    f"{tenth:.3g}",
                    f"{half:.3g}",
                    ", ".join(catalogue()[name].title for name in found.minima[norm]),
                )
            )
        if not rows:
            return None
        return Table(
            id="least",
            caption="The smallest change that breaks each answer, in input units (l0: a number of values)",
            columns=("norm", "broken", "smallest", "a tenth is below", "half is below", "by"),
            rows=tuple(rows),
        )

    def _attack_table(self) -> Table:
        found = self._found
        rows = []
        for name, result in found.attacks.items():
            broken, tried = int((result.success & found.correct).sum()), int(found.tried[name].sum())
            low, high = wilson(broken, tried)
            count = tried
            rows.append(
                (
                    catalogue()[name].title,
                    catalogue()[name].access,
                    f"{broken} of {tried}",
                    f"{low:.0%} to {high:.0%}",
                    f"{result.cost.forward / count:,.0f}",
                    f"{result.cost.backward / count:,.0f}",
                    f"{result.cost.seconds:.1f}",
                )
            )
        return Table(
            id="attacks",
            caption=f"Attacks under {size(self._plan)}. Cheap ones come first, and each is tried on what those "
            "before it left, apart for those with gradients, with scores and with labels",
            columns=(
                "attack",
                "needs",
                "broken of those tried",
                "95 % interval",
                "forward / sample",
                "backward / sample",
                "seconds",
            ),
            rows=tuple(rows),
        )

    def _panda(self) -> Gallery | None:
        """The original, the change magnified, and the result, at the smallest radius that broke the sample."""
        found, model = self._found, self._model
        if not pictures.drawable(found.x):
            return None
        cases = self._broken()
        if not cases:
            return None
        rows, heads = [], []
        for row, result, place in cases:
            clean, bad = result.x[place], result.adversarial[place]
            before, after = (self._named(scores[place]) for scores in (result.before, result.after))
            plain = pictures.photo(clean, model.bounds, f"{self._ids[row]}, decided as {before}", before)
            noise, factor = pictures.difference(
                bad - clean, model.bounds, f"The change to {self._ids[row]}, magnified around grey"
            )
            noise = Picture(data=noise.data, alt=noise.alt, line=f"× {factor:,.0f}, eps {radius(result.threat.eps)}")
            fooled = pictures.photo(bad, model.bounds, f"{self._ids[row]} after the change, decided as {after}", after)
            rows.append((plain, noise, fooled))
            heads.append(self._ids[row])
        return Gallery(
            id="panda",
            caption="The smallest change tried that breaks the answer: the original, the change magnified, the result",
            columns=("original", "change, magnified", "after the change"),
            rows=tuple(rows),
            row_heads=tuple(heads),
        )

    def _broken(self) -> list[tuple[int, AttackResult, int]]:
        """Returns (sample, result, row in it): the surest answers, at the smallest radius that broke them."""
        found = self._found
        cases: dict[int, tuple[int, AttackResult, int]] = {}
        for rows, result in found.curve:
            for place in result.success.nonzero()[:, 0].tolist():
                cases.setdefault(int(rows[place]), (int(rows[place]), result, place))
        if not cases:
            for result in found.attacks.values():
                for place in (result.success & found.correct).nonzero()[:, 0].tolist():
                    cases.setdefault(place, (place, result, place))
        sure = found.outputs.softmax(1).amax(1)
        ranked = sorted(cases.values(), key=lambda case: (-float(sure[case[0]]), case[0]))
        return ranked[: self._plan.suite.shown]

    def _named(self, scores: Tensor) -> str:
        label = int(scores.argmax())
        share = float(scores.double().softmax(0)[label])
        return self._model.name_of(label) + ("" if self._model.access == "labels" else f", {share:.0%}")

    def _rights(self) -> Section | None:
        """Success against queries, a line a level of access."""
        found = self._found
        right = int(found.correct.sum())
        lines = []
        for level, names in blind(found).items():
            broken, queries = spent(found, names)
            most = float(queries.max())
            if not right or not most:
                continue
            budgets = [float(budget) for budget in BUDGETS if budget < most] + [most]
            won = [int((broken & (queries <= budget)).sum()) for budget in budgets]
            titles = ", ".join(catalogue()[name].title for name in names)
            lines.append(_line(f"{level} ({titles})", budgets, won, right, "attack"))
        if not lines:
            return None
        curve = Curve(
            id="queries",
            caption="Correct answers broken against queries a sample, with 95 % intervals",
            x_label="queries a sample",
            y_label="broken",
            series=tuple(lines),
            log_x=True,
        )
        return Section(id="rights", title="With fewer rights", sentence=self._sentence("rights"), curves=(curve,))

    def _real(self) -> Section | None:
        """Can the attacks be believed? Every check, and what its alarm means."""
        tables = tuple(diagnosis.table() for diagnosis in self._found.diagnoses.values())
        title, sentence = "Is the robustness real?", self._sentence("real")
        return Section(id="real", title=title, sentence=sentence, tables=tables) if tables else None

    def _proof(self) -> Section | None:
        return proof.section(self._found, self._plan, tuple(self._ids), size(self._plan), self._sentence("proof"))

    def _look(self) -> Section | None:
        found = self._found
        if not found.attributions:
            return None
        extra = () if pictures.drawable(found.x) else (maps.features(found, self._model, self._ids),)
        return Section(
            id="look",
            title="What does it look at?",
            sentence=maps.belief(found),
            galleries=tuple(maps.galleries(found, self._model, self._ids)) if pictures.drawable(found.x) else (),
            tables=(maps.beliefs(found), *extra),
        )


def _line(label: str, x: Sequence[float], counts: Sequence[int], total: int, role: str) -> Series:
    bounds = [wilson(count, total) for count in counts]
    return Series(
        label=label,
        x=tuple(x),
        y=tuple(count / total for count in counts),
        low=tuple(low for low, _ in bounds),
        high=tuple(high for _, high in bounds),
        role=role,  # type: ignore[arg-type]
    )


def balance(y: Tensor) -> str:
    """Returns how the labels spread, in words."""
    counts = torch.bincount(y)
    counts = counts[counts > 0]
    return f"{len(counts)} classes present, {int(counts.min())} to {int(counts.max())} samples each"
