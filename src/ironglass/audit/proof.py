"""What can be proven? Each sample between what certificates prove and what attacks break, and who promised what."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.catalogue import catalogue
from ironglass.core.findings import Bars, Section, Table
from ironglass.core.sandwich import Sandwich

from .evidence import Evidence
from .planning import Plan


def sandwich(found: Evidence, plan: Plan) -> Sandwich | None:
    """Returns both sides of all samples; None where nothing was certified.

    Proven is every radius at which some certificate holds. Broken is by all that broke a sample in the threat's norm:
    the attacks, the curve's, the searches for the smallest change.

    Raises:
        MethodFailed: if something is both proven and broken, for then we have a bug.
    """
    if not found.certificates:
        return None
    lower = torch.zeros(len(found.y), dtype=torch.float64)
    upper = found.least(plan.threat.norm).cpu()
    for certificate in found.certificates.values():
        lower = lower.maximum(certificate.verified.cpu() * plan.threat.eps)
    for rows, certificate in found.proofs:
        lower[rows] = lower[rows].maximum(certificate.verified.cpu() * certificate.threat.eps)
    everyone = torch.arange(len(found.y))
    tried = [(everyone, result) for result in found.attacks.values()] + found.curve
    for rows, result in tried:
        length = torch.where(result.success, result.distance.double(), torch.inf).cpu()
        upper[rows] = upper[rows].minimum(length)
    upper = torch.where(found.correct.cpu(), upper, 0.0)
    estimates = [estimate.radius.double().cpu() for estimate in found.estimates.values()]
    return Sandwich(
        x=found.x,
        method="sandwich",
        lower=lower,
        upper=upper,
        estimate=estimates[0] if estimates else None,
        y=found.y,
        threat=plan.threat,
        certificates=[catalogue()[name].title for name in found.certificates],
        attacks=[*found.attacks, *found.minima.get(plan.threat.norm, {})],
    )


def section(found: Evidence, plan: Plan, ids: tuple[str, ...], size: str, sentence: str) -> Section | None:
    """Returns the report's section.

    Args:
        found: the evidence.
        plan: what was done.
        ids: the samples' names.
        size: the threat in words.
        sentence: what the findings say of it.
    """
    whole = sandwich(found, plan)
    tables = [*_estimates(found, plan), *_smoothed(found)]
    if whole is None:
        title, nothing = "What can be proven?", "Nothing is proven of the model itself here."
        return Section(id="proof", title=title, sentence=nothing, tables=tuple(tables)) if tables else None
    radii = sorted({certificate.threat.eps for _, certificate in found.proofs} | {plan.threat.eps})
    return Section(
        id="proof",
        title="What can be proven?",
        sentence=sentence,
        curves=(whole.curve(),) if len(radii) > 1 else (),
        bars=(_bars(found, size),),
        tables=(whole.table(radii), whole.each(ids), *tables),
    )


def _bars(found: Evidence, size: str) -> Bars:
    """Each certificate's share of samples proven, and what is open and broken beside it."""
    labels, values = [], []
    for name, certificate in found.certificates.items():
        proven, lost, total = int(certificate.verified.sum()), int((~found.holds).sum()), len(found.y)
        labels.append(catalogue()[name].title)
        values.append((proven / total, (total - proven - lost) / total, lost / total))
    return Bars(
        id="proven",
        caption=f"Share of samples proven, open and broken under {size}",
        labels=tuple(labels),
        parts=("proven", "open", "broken"),
        values=tuple(values),
    )


def _estimates(found: Evidence, plan: Plan) -> list[Table]:
    rows = [
        (
            catalogue()[name].title,
            "estimate, no guarantee",
            _median(estimate.radius),
            f"{float(estimate.quality.median()):.2g}",
        )
        for name, estimate in found.estimates.items()
    ]
    caption = f"Estimated robust radius in {plan.threat.norm}, up to {plan.threat.eps:.4g}"
    columns = ("method", "kind", "median radius", "median p-value of the fit")
    return [Table(id="estimates", caption=caption, columns=columns, rows=tuple(rows))] if rows else []


def _smoothed(found: Evidence) -> list[Table]:
    rows = [
        (
            catalogue()[name].title,
            f"{int((result.decision == result.y).sum())} of {len(result)}",
            str(int((result.decision < 0).sum())),
            _median(result.radius),
            f"{int(result.holds.sum())} of {len(result)}",
            f"{result.confidence:.4g} a sample",
        )
        for name, result in found.smoothed.items()
    ]
    caption = "Of the smoothed classifier, which votes under noise: nothing of this is proven of the model itself"
    columns = ("method", "right", "abstains", "median radius", "right within eps", "with probability")
    return [Table(id="smoothed", caption=caption, columns=columns, rows=tuple(rows))] if rows else []


def _median(values: Tensor) -> str:
    return f"{float(values.median()):.4g}"
