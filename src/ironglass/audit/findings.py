"""Judging: turns evidence into findings, each one measured fact with an interval, a level and a fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ironglass.core.catalogue import catalogue
from ironglass.core.findings import SEVERITIES, Finding
from ironglass.core.statistics import bootstrap, wilson

from .evidence import Evidence
from .planning import Plan

FIXES = {
    "accuracy": "Look at what it gets wrong: check labels, preprocessing, and whether it was trained for such data.",
    "robust_accuracy": "Train against this threat (adversarial training), or state in the model's documentation that "
    "inputs must be trusted.",
    "noise": "Train with noise or augmentation: this weakness needs no adversary.",
    "scores_alone": "Limit and log queries, return labels instead of scores; and train against the threat.",
    "labels_alone": "Hiding the scores does not help: labels alone suffice. Limit queries, watch for series of queries "
    "that are nearly alike, and train against the threat.",
    "proven": "Train for provability (interval or CROWN-IBP training), take a smaller radius, or use tighter bounds.",
    "sanity": "Do not use this map to argue about the model; use one that passes.",
    "completeness": "Read this map as a ranking at most, or lower the tolerance of the method.",
}


def judge(found: Evidence, plan: Plan) -> tuple[Finding, ...]:
    """Returns the findings, worst first; within a level in the order of the report."""
    findings = [
        *_accuracy(found, plan),
        *_robustness(found, plan),
        *_minima(found),
        *_masking(found, plan),
        *_proofs(found, plan),
        *_explanations(found, plan),
    ]
    return tuple(sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity)))


def _share(
    rule: str, section: str, kept: int, total: int, verdict: str, plan: Plan, method: str, level: str = ""
) -> Finding:
    """Makes a finding of a share of samples, with Wilson's interval."""
    value = kept / total
    low, high = wilson(kept, total)
    severity, threshold = plan.suite.level(level or rule, value)
    fine = severity == "ok"
    return Finding(
        rule=rule,
        severity=severity,
        verdict=verdict,
        fix="" if fine else FIXES[level or rule],
        section=section,
        value=value,
        low=low,
        high=high,
        unit="share",
        better="higher",
        threshold=threshold,
        method=method,
        samples=total,
    )


def _accuracy(found: Evidence, plan: Plan) -> Iterator[Finding]:
    right, total = int(found.correct.sum()), len(found.y)
    verdict = f"The model labels {right} of {total} samples as given"
    yield _share("accuracy", "model", right, total, verdict, plan, "clean")


def radius(eps: float) -> str:
    """Returns a radius as people write it: ``4/255`` where it is one, else four digits."""
    levels = eps * 255
    return f"{levels:.0f}/255" if abs(levels - round(levels)) < 1e-9 and 1 <= levels <= 255 else f"{eps:.4g}"


def size(plan: Plan) -> str:
    """Returns the threat in words a reader can check."""
    words = {
        "linf": "a change of at most {} a value",
        "l2": "a change of Euclidean length {}",
        "l1": "changes that sum to {}",
        "wasserstein": "moves of the picture's mass by {} pixels on the mean",
    }
    norm, eps = plan.threat.norm, plan.threat.eps
    return words[norm].format(f"{eps:.4g}" if norm == "wasserstein" else radius(eps))


def _robustness(found: Evidence, plan: Plan) -> Iterator[Finding]:
    right = int(found.correct.sum())
    if not right or not found.attacks:
        return
    control = plan.suite.control
    real = {name: result for name, result in found.attacks.items() if name != control}
    if real:
        alive = int(found.holds.sum())
        best = max(real, key=lambda name: int((real[name].success & found.correct).sum()))
        verdict = f"With {size(plan)}, {right - alive} of {right} correct answers break"
        yield _share("robust_accuracy", "break", alive, right, verdict, plan, best)
    if control in found.attacks:
        alive = int((found.correct & ~found.attacks[control].success).sum())
        verdict = f"Random noise of the same size breaks {right - alive} of {right} correct answers"
        yield _share("noise", "break", alive, right, verdict, plan, control)
    yield from _rights(found, plan, right)


def _rights(found: Evidence, plan: Plan, right: int) -> Iterator[Finding]:
    """What falls without gradients at all, and to labels alone: so much is hiding the scores worth."""
    levels = {level: spent(found, names) for level, names in blind(found).items()}
    names = {level: ", ".join(known) for level, known in blind(found).items()}
    if not levels:
        return
    by_labels = int(levels["labels"][0].sum()) if "labels" in levels else 0
    alive, verdict = _fallen("Without gradients", list(levels.values()), right)
    finding = _share("scores_alone", "rights", alive, right, verdict, plan, ", ".join(names.values()))
    yield replace(finding, fix=FIXES["labels_alone"]) if finding.fix and by_labels else finding
    if "labels" in levels and len(levels) > 1:
        alive, verdict = _fallen("From labels alone", [levels["labels"]], right)
        yield _share("labels_alone", "rights", alive, right, verdict, plan, names["labels"])


def _fallen(how: str, levels: list[tuple[Tensor, Tensor]], right: int) -> tuple[int, str]:
    """Returns how many right answers stand, and in words how many fall, and after or within how many queries."""
    broken = _any([lost for lost, _ in levels])
    fallen = int(broken.sum())
    least = _median([queries.where(lost, torch.inf)[broken] for lost, queries in levels])
    most = max(float(queries.max()) for _, queries in levels)
    after = f" after a median of {least:,.0f} queries" if fallen else f" within {most:,.0f} queries"
    return right - fallen, f"{how}, {fallen} of {right} correct answers break{after}"


def _minima(found: Evidence) -> Iterator[Finding]:
    """The mean length of the smallest change that breaks an answer, in each norm."""
    for norm, results in found.minima.items():
        least = found.least(norm)[found.correct]
        broken = least[least < float("inf")].tolist()
        if not broken:
            continue
        low, high = bootstrap(broken)
        mean, all_of = sum(broken) / len(broken), f"{len(broken)} of {len(least)}"
        yield Finding(
            rule=f"least.{norm}",
            severity="info",
            verdict=f"In {norm}, the smallest change found that breaks an answer is {mean:.3g} on average ({all_of})",
            fix="",
            section="break",
            value=mean,
            low=low,
            high=high,
            unit="values" if norm == "l0" else "input units",
            better="higher",
            method=", ".join(results),
            samples=len(broken),
        )


def blind(found: Evidence) -> dict[str, list[str]]:
    """Returns the attacks that ran without gradients, by the access they need; controls are none."""
    levels: dict[str, list[str]] = {}
    for name in found.attacks:
        card = catalogue().get(name)
        if card is None or "control" in card.tags:
            continue
        access = card.access_with(found.attacks[name].options)
        if access in ("scores", "labels"):
            levels.setdefault(access, []).append(name)
    return levels


def spent(found: Evidence, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Returns which right answers a cascade broke, and the queries a sample until then, or in all ``(N,)``."""
    broken, queries = torch.zeros_like(found.correct), torch.zeros(len(found.y), dtype=torch.double)
    for name in names:
        result = found.attacks[name]
        hit = result.success & found.correct
        queries += torch.where(hit & (result.first_success >= 0), result.first_success, result.queries)
        broken |= hit
    return broken, queries


def _any(parts: list[Tensor]) -> Tensor:
    whole = parts[0].clone()
    for part in parts[1:]:
        whole |= part
    return whole


def _median(parts: list[Tensor]) -> float:
    least = parts[0]
    for part in parts[1:]:
        least = least.minimum(part)
    return float(least.median()) if len(least) else 0.0


def _adds_up(found: Evidence, name: str) -> bool:
    """Returns whether an explanation claims that its values sum to the logit or its change."""
    return found.attributions[name].error is not None and "no sum" not in catalogue()[name].tags


def _masking(found: Evidence, plan: Plan) -> Iterator[Finding]:
    """Can the attacks be believed? The share of the battery's checks that raise no alarm."""
    for name, diagnosis in found.diagnoses.items():
        run = [check for check in diagnosis.checks if diagnosis.verdict(check.name) != "not run"]
        alarms = [diagnosis.check(alarm) for alarm in diagnosis.alarms]
        value = 1 - len(alarms) / len(run)
        severity, threshold = plan.suite.level("masking", value)
        verdict = f"None of {len(run)} checks finds a sign that the attacks fail where the model is weak"
        if alarms:
            named = ", ".join(check.name.replace("_", " ") for check in alarms)
            verdict = f"The robustness may not be real: {len(alarms)} of {len(run)} checks raise an alarm ({named})"
        missed = int((diagnosis.broken & found.survives[found.examined]).sum())
        if missed:
            verdict += f"; they break {missed} of {len(diagnosis)} samples that no attack above breaks"
        fix = "; ".join(dict.fromkeys(check.remedy for check in [each for each in alarms if each.cause] or alarms))
        yield Finding(
            rule="masking",
            severity=severity,
            verdict=verdict,
            fix=f"{fix[0].upper()}{fix[1:]}." if fix else "",
            section="real",
            value=value,
            unit="share",
            better="higher",
            threshold=threshold,
            method=name,
            samples=len(diagnosis),
        )


def _proofs(found: Evidence, plan: Plan) -> Iterator[Finding]:
    if not found.certificates:
        return
    proven = int(_any([certificate.verified for certificate in found.certificates.values()]).sum())
    total = len(found.y)
    verdict = f"{proven} of {total} samples are proven to keep their label under {size(plan)}"
    lost = int((~found.holds).sum())
    verdict += f"; {lost} are broken, and of {total - proven - lost} neither is known"
    yield _share("proven", "proof", proven, total, verdict, plan, ", ".join(found.certificates))


def _explanations(found: Evidence, plan: Plan) -> Iterator[Finding]:
    for (metric, name), score in found.scores.items():
        passed, total = int(score.passed.sum()), len(score.passed)
        title = catalogue()[name].title
        if metric == "parameter_randomization":
            verdict = f"{title}: the map depends on the model's weights for {passed} of {total} samples"
            yield _share(f"sanity.{name}", "look", passed, total, verdict, plan, metric, level="sanity")
        elif metric == "completeness" and _adds_up(found, name):
            verdict = f"{title}: the map adds up to the change of the output for {passed} of {total} samples"
            yield _share(f"completeness.{name}", "look", passed, total, verdict, plan, metric, level="completeness")
