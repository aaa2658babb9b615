"""What a result comes to: the figures as data, and as lines for a person."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ironglass.cli.screen import safe
from ironglass.core.statistics import wilson
from ironglass.report.text import SHARE, interval, number

if TYPE_CHECKING:
    from torch import Tensor

    from ironglass.core.diagnosis import Diagnosis
    from ironglass.core.results import AttackResult, Attribution, Certificate, Estimate, Result, Smoothed
    from ironglass.models.adapter import Adapter

SHOWN = 3


def attack(result: AttackResult) -> dict[str, Any]:
    """Returns an attack's figures: its success among the samples that were not at the goal already."""
    before, after = result.before.argmax(1), result.after.argmax(1)
    already = before == result.goal if result.targeted else before != result.goal
    won = result.success & ~already
    tried, first = int((~already).sum()), result.first_success[won]
    return {
        **_common(result),
        "goal": "targeted" if result.targeted else "untargeted",
        "at_goal_before": int(already.sum()),
        "tried": tried,
        "succeeded": int(won.sum()),
        **_share("success", int(won.sum()), tried),
        "label_changed": int((before != after).sum()),
        "median_distance": _median(result.distance[won]),
        "median_queries": _median(result.queries[~already]),
        "median_queries_to_success": _median(first[first >= 0]),
    }


def attack_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yields an attack's figures for a person."""
    before = "at the target before" if figures["goal"] == "targeted" else "labelled otherwise before"
    norm = figures["threat"]["norm"]
    yield f"  success          {_said(figures, 'success')}, {figures['succeeded']} of {figures['tried']} samples"
    if figures["at_goal_before"]:
        yield f"  not tried        {figures['at_goal_before']} samples, {before}"
    yield f"  median distance  {number(figures['median_distance'])} in {norm}, of the successes"
    first = figures["median_queries_to_success"]
    until = "" if first is None else f"; {number(first)} until success"
    yield f"  median queries   {number(figures['median_queries'])} a sample{until}"
    yield from _paid(figures)


def certificate(result: Certificate) -> dict[str, Any]:
    """Returns a certificate's figures."""
    verified = int(result.verified.sum())
    return {
        **_common(result),
        "kind": "proof",
        "verified": verified,
        **_share("share_verified", verified, len(result)),
        **({} if result.falsified is None else {"falsified": int(result.falsified.sum())}),
        "mean_margin": _finite(float(result.margin.double().mean())),
    }


def certificate_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yields a certificate's figures for a person."""
    total = figures["samples"]
    yield f"  proven           {_said(figures, 'share_verified')}, {figures['verified']} of {total} samples"
    broken = figures.get("falsified", 0)
    if broken:
        yield f"  falsified        {broken} samples, by a point that changes the label"
    yield f"  not proven       {total - figures['verified'] - broken} samples, which may be safe or not"
    yield f"  mean margin      {number(figures['mean_margin'])}, a lower bound in logits"
    yield from _paid(figures)


def estimate(result: Estimate) -> dict[str, Any]:
    """Returns an estimate's figures."""
    beyond = int((result.radius >= result.threat.eps).sum())
    return {
        **_common(result),
        "kind": "estimate",
        "median_radius": _median(result.radius),
        "estimated_to_hold": beyond,
        **_share("share_estimated_to_hold", beyond, len(result)),
        "poor_fits": int((result.quality < 0.05).sum()),
    }


def estimate_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yields an estimate's figures for a person, who must not take them for a proof."""
    eps, norm = figures["threat"]["eps"], figures["threat"]["norm"]
    yield "  an estimate, without guarantee: nothing is proven"
    yield f"  median radius    {number(figures['median_radius'])} in {norm}, estimated"
    share = f"{_said(figures, 'share_estimated_to_hold')}, {figures['estimated_to_hold']} samples"
    yield f"  at least {number(eps):7} {share}, estimated"
    if figures["poor_fits"]:
        yield f"  poor fits        {figures['poor_fits']} samples (p < 0.05): no trust in their estimate"
    yield from _paid(figures)


def smoothed(result: Smoothed) -> dict[str, Any]:
    """Returns what holds of the smoothed classifier."""
    holds = int(result.holds.sum())
    return {
        **_common(result),
        "kind": "smoothed",
        "confidence": result.confidence,
        "right": int((result.decision == result.y).sum()),
        "abstained": int((result.decision < 0).sum()),
        "median_radius": _median(result.radius),
        "holds": holds,
        **_share("share_holds", holds, len(result)),
    }


def smoothed_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yields them for a person, who must not take them for a proof about the model."""
    eps, norm = figures["threat"]["eps"], figures["threat"]["norm"]
    yield "  of the smoothed classifier, which votes under noise; of the model itself nothing is proven"
    yield f"  right            {figures['right']} samples; it abstains on {figures['abstained']}"
    yield f"  median radius    {number(figures['median_radius'])} in {norm}"
    share = f"{_said(figures, 'share_holds')}, {figures['holds']} samples"
    yield f"  right within {number(eps):4} {share}, each with probability {figures['confidence']:.4g}"
    yield from _paid(figures)


def diagnosis(result: Diagnosis) -> dict[str, Any]:
    """Returns a diagnosis's figures, its checks each: verdict, share of samples, meaning and remedy."""
    checks = []
    for check in result.checks:
        shown, asked = result.counts(check.name)
        checks.append(
            {
                "check": check.name,
                "verdict": result.verdict(check.name),
                "shown": shown,
                "asked": asked,
                **_share("share", shown, asked),
                "allowed": check.most,
                "cause": check.cause,
                "meaning": check.alarm,
                "remedy": check.remedy,
            }
        )
    broken = int(result.broken.sum())
    return {
        **_common(result),
        "alarms": list(result.alarms),
        "causes": list(result.causes),
        "fooled": broken,
        "checks": checks,
    }


def diagnosis_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yields a diagnosis's checks for a person, a line each, and what the alarms mean."""
    wide = max((len(row["check"]) for row in figures["checks"]), default=0)
    for row in figures["checks"]:
        share = f"{row['shown']} of {row['asked']}" if row["asked"] else ""
        yield f"  {row['check']:{wide}}  {row['verdict']:7}  {share:>10}".rstrip()
    for row in figures["checks"]:
        if row["verdict"] == "alarm":
            yield f"  {row['check']}: {row['meaning']}."
            yield f"    Remedy: {row['remedy']}."
    count = len(figures["alarms"])
    yield f"  {count} alarm{'s' * (count != 1)}" + ("" if count else ": nothing speaks against the robustness measured")
    yield f"  fooled           {figures['fooled']} of {figures['samples']} samples, at worst"
    yield from _paid(figures)


def attribution(result: Attribution, model: Adapter, ids: Sequence[str]) -> dict[str, Any]:
    """Returns an explanation's figures, a map each: its target, its sum, and the values that weigh most."""
    maps = []
    for i, name in enumerate(ids):
        values, target = result.values[i], result.target[i].tolist()
        maps.append(
            {
                "sample": name,
                "target": target,
                "class": result.explained(i, model.name_of),
                "sum": float(values.double().sum()),
                "strongest": [{"at": list(at), "value": value} for at, value in strongest(values)],
                "error": None if result.error is None else _finite(float(result.error[i])),
            }
        )
    return {**_common(result), "maps": maps}


def attribution_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yields an explanation's figures for a person."""
    layer = figures["options"].get("at")
    where = f"strongest in {safe(layer)}" if layer else "strongest"
    for row in figures["maps"]:
        best = ", ".join(f"{place(each['at'])} {each['value']:+.3g}" for each in row["strongest"])
        error = "" if row["error"] is None else f"; completeness error {number(row['error'])}"
        yield f"  {safe(row['sample'])}: for {safe(row['class'])}; sum {row['sum']:+.4g}; {where} {best}{error}"
    yield from _paid(figures)


def strongest(values: Tensor, count: int = SHOWN) -> list[tuple[tuple[int, ...], float]]:
    """Returns where a map is largest in size, and its values there."""
    flat = values.detach().cpu().double().flatten()
    order = flat.abs().argsort(descending=True, stable=True)[:count].tolist()
    found = []
    for index in order:
        at, rest = [], index
        for size in reversed(values.shape):
            at.append(rest % size)
            rest //= size
        found.append((tuple(reversed(at)), float(flat[index])))
    return found


def place(at: list[int] | tuple[int, ...]) -> str:
    """Returns a position as it is indexed: ``[0, 3, 7]``."""
    return f"[{', '.join(map(str, at))}]"


def _common(result: Result) -> dict[str, Any]:
    """Returns what every result has: method, options, threat, samples and cost."""
    size = len(result)
    threat = getattr(result, "threat", None)
    return {
        "method": result.method,
        "options": dict(result.options),
        **({} if threat is None else {"threat": {"norm": threat.norm, "eps": _finite(threat.eps)}}),
        "samples": size,
        "forward_per_sample": result.cost.forward / size,
        "backward_per_sample": result.cost.backward / size,
        "seconds": result.cost.seconds,
        "partial": result.partial,
    }


def _share(name: str, count: int, total: int) -> dict[str, float | None]:
    """Returns a share with its 95 % interval; None where there is nothing to take a share of."""
    low, high = wilson(count, total)
    return {name: count / total if total else None, f"{name}_low": low, f"{name}_high": high}


def _said(figures: Mapping[str, Any], name: str) -> str:
    low, high = figures[f"{name}_low"], figures[f"{name}_high"]
    return f"{number(figures[name], SHARE)} (95% interval {interval(low, high, SHARE)})"


def _paid(figures: Mapping[str, Any]) -> Iterator[str]:
    forward, backward = figures["forward_per_sample"], figures["backward_per_sample"]
    if forward or backward:
        yield f"  passes a sample  {number(forward)} forward, {number(backward)} backward"
    yield f"  seconds          {figures['seconds']:.3g}"


def _median(values: Tensor) -> float | None:
    return _finite(float(values.double().quantile(0.5))) if len(values) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
