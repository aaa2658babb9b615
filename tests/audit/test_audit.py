from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import ironglass as ig
from ironglass.audit import Interrupted, plan
from ironglass.core.catalogue import catalogue
from ironglass.core.config import Config
from ironglass.core.errors import InputError, MethodFailed
from ironglass.core.findings import SEVERITIES, Report
from ironglass.core.method import get
from ironglass.core.results import AttackResult
from nets import labels_without_autograd, scores_without_autograd

QUICK: dict[str, Any] = {
    "pgd": {"steps": 4},
    "square": {"max_queries": 20},
    "integrated_gradients": {"tol": 0.5},
    "parameter_randomization": {"steps": 1},
    "masking_alarms": {"steps": 4, "queries": 20},
}


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.images / 16).float()[:, None], torch.tensor(data.target).long()


@pytest.fixture(scope="module")
def net(digits: tuple[Tensor, Tensor]) -> nn.Module:
    x, y = digits
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(60):
            rows = torch.randint(1500, (128,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def data(digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    x, y = digits
    return x[1500:1530], y[1500:1530]


@pytest.fixture(scope="module")
def report(net: nn.Module, data: tuple[Tensor, Tensor]) -> Report:
    return ig.audit(net, data, eps=0.2, options=QUICK, name="digits")


def by_rule(report: Report) -> dict[str, Any]:
    return {finding.rule: finding for finding in report.findings}


def timeless(report: Report) -> str:
    """The report without what two runs may differ in: the hour, and the seconds in one table."""
    page = report.to_dict()
    page["created"] = ""
    for section in page["sections"]:
        for table in section["tables"]:
            if table["id"] == "attacks":
                table["rows"] = [row[:-1] for row in table["rows"]]
    return str(page)


def test_the_findings_are_the_facts(report: Report, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    right = net(x).argmax(1) == y
    found = by_rule(report)
    assert found["accuracy"].value == pytest.approx(float(right.double().mean()))
    noise = ig.attack.random_noise(net, x, y, ig.Linf(0.2))
    assert found["noise"].value == pytest.approx(float((right & ~noise.success).sum() / right.sum()))
    alive = right.clone()
    steps = plan(ig.wrap(net), data, Config(eps=0.2, options=QUICK)).of("attack")
    assert {"fgsm", "pgd", "square", "random_noise"} <= {step.name for step in steps}
    for step in steps:  # the cascade tries each on survivors only, and finds the same worst case
        alive &= ~get(step.name)(net, x, y, ig.Linf(0.2), **step.options).success
    assert found["robust_accuracy"].value == pytest.approx(float(alive.sum() / right.sum()))
    assert all(f.low <= f.value <= f.high for f in report.findings if f.low is not None)
    assert [f.rule for f in report.findings if f.value is not None and f.low is None] == ["masking"]
    ranks = [SEVERITIES.index(finding.severity) for finding in report.findings]
    assert ranks == sorted(ranks, reverse=True)
    assert report.status == "complete"


def test_the_sections_come_in_order_and_every_finding_has_its_section(report: Report) -> None:
    ids = [section.id for section in report.sections]
    assert ids == [name for name in ("model", "break", "rights", "real", "proof", "look") if name in ids]
    assert {finding.section for finding in report.findings} <= set(ids)
    assert {"break", "rights", "real", "proof", "look"} <= set(ids)


def test_the_curve_never_rises_for_an_attack(report: Report) -> None:
    curve = next(curve for section in report.sections for curve in section.curves if curve.id == "accuracy")
    attack = next(series for series in curve.series if series.role == "attack")
    assert list(attack.y) == sorted(attack.y, reverse=True)


def test_masked_gradients_are_found_and_what_they_hide(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net((x * 7).round() / 7)

    report = ig.audit(Rounded().eval(), data, eps=0.2, only=("pgd", "masking_alarms"))
    found = by_rule(report)
    assert (found["masking"].severity, found["masking"].section) == ("high", "real")
    assert "zero gradient, steps" in found["masking"].verdict
    assert "samples that no attack above breaks" in found["masking"].verdict
    assert "BPDA" in found["masking"].fix
    table = next(table for section in report.sections if section.id == "real" for table in section.tables)
    assert [row[1] for row in table.rows if row[0] in ("zero gradient", "steps", "random")] == [
        "clear",
        "alarm",
        "alarm",
    ]
    honest = by_rule(ig.audit(net, data, eps=0.2, only=("pgd", "masking_alarms")))["masking"]
    assert (honest.severity, honest.value, honest.fix, honest.samples) == ("ok", 1, "", 4)


def test_every_method_is_planned_or_its_absence_explained(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    made = plan(ig.wrap(net), data)
    named = {step.title for step in made.steps} | {limit.what for limit in made.limits}
    assert named == {card.title for card in catalogue().values()}
    assert made.passes > 0


def test_an_interrupted_audit_resumes_and_ends_with_the_same_report(
    net: nn.Module, data: tuple[Tensor, Tensor], report: Report, tmp_path: Path
) -> None:
    ran: list[str] = []

    def stop(what: str, done: int, total: int) -> None:
        ran.append(what)
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        ig.audit(net, data, eps=0.2, options=QUICK, name="digits", out=tmp_path, tick=stop)
    half = caught.value.report
    assert half.status == "partial"
    assert any("interrupted" in limit.why for limit in half.limits)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".cache").iterdir()}
    assert kept
    again = ig.audit(net, data, eps=0.2, options=QUICK, name="digits", out=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished work was done again"
    assert timeless(again) == timeless(report)


def test_two_workers_write_the_same_report(net: nn.Module, data: tuple[Tensor, Tensor], report: Report) -> None:
    assert timeless(ig.audit(net, data, eps=0.2, options=QUICK, name="digits", workers=2)) == timeless(report)


def test_a_spent_time_budget_leaves_a_partial_report(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    report = ig.audit(net, data, eps=0.2, options=QUICK, time=1e-6)
    assert report.status == "partial"
    assert any("time budget" in limit.why for limit in report.limits)
    assert by_rule(report)["accuracy"].samples == 30


def test_a_method_that_fails_is_named_and_the_rest_stands(
    net: nn.Module, data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> Tensor:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(get("fgsm"), "raw", broken)
    report = ig.audit(net, data, eps=0.2, options=QUICK)
    assert report.status == "failed"
    failed = [limit for limit in report.limits if limit.failed]
    assert [limit.what for limit in failed] == [catalogue()["fgsm"].title]
    assert "ZeroDivisionError" in failed[0].why
    assert "robust_accuracy" in by_rule(report)


def test_a_proof_that_an_attack_contradicts_stops_the_audit(
    net: nn.Module, data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get("interval"), "raw", lambda model, x, y, threat, **options: torch.ones(len(x)))
    with pytest.raises(
        MethodFailed, match=r"interval proves samples .* safe and .* breaks them: .* a bug of Ironglass"
    ):
        ig.audit(net, data, eps=0.2, options=QUICK)


def test_a_proof_that_a_smaller_change_contradicts_stops_it_too(
    net: nn.Module, data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a radius of the climb, where only the search for the smallest change has been."""
    lie = lambda model, x, y, threat, **options: torch.full((len(x),), 1.0 if threat.eps < 0.15 else -1.0)  # noqa: E731
    monkeypatch.setattr(get("interval"), "raw", lie)
    with pytest.raises(MethodFailed, match=r"proven and broken at once: .* a bug of Ironglass"):
        ig.audit(net, data, eps=0.2, options=QUICK, only=("interval", "fmn"))


def test_every_sample_lies_between_what_is_proven_and_what_breaks_it(
    net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    report = ig.audit(net, data, eps=0.05, options=QUICK, only=("interval", "fast_lin", "pgd", "fmn", "random_noise"))
    proof = next(section for section in report.sections if section.id == "proof")
    tables = {table.id: table for table in proof.tables}
    for row in tables["sandwich"].rows:
        assert sum(int(cell.split(" ")[0]) for cell in row[1:]) == len(data[1])
    proven, alive = proof.curves[0].series[0], proof.curves[0].series[-1]
    assert proven.role == "proof"
    assert max(proven.y) > min(proven.y)
    for eps, share in zip(proven.x, proven.y, strict=True):
        assert share <= max(y for x, y in zip(alive.x, alive.y, strict=True) if x >= eps) + 1e-9
    for _, low, _, high in tables["sandwich-samples"].rows:
        assert float(low) <= (float("inf") if high == "—" else float(high))
    assert len(tables["sandwich-samples"].rows) == len(data[1])
    at = {row[0]: int(row[1].split(" ")[0]) for row in tables["sandwich"].rows}
    assert by_rule(report)["proven"].value == at["0.05"] / len(data[1])


def test_a_promise_on_the_smoothed_classifier_is_no_proof(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    quick = QUICK | {"smoothing": {"samples": 50, "sigma": 0.5}}
    report = ig.audit(net, data, norm="l2", eps=0.1, options=quick, only=("smoothing",))
    proof = next(section for section in report.sections if section.id == "proof")
    assert proof.sentence.startswith("Nothing is proven of the model itself")
    assert [table.id for table in proof.tables] == ["smoothed"]
    assert not proof.bars
    assert "proven" not in by_rule(report)


def test_a_black_box_is_audited_with_what_it_gives(data: tuple[Tensor, Tensor]) -> None:
    x, _ = data
    with torch.no_grad():
        y = scores_without_autograd(x).argmax(1)
    scores = ig.audit(scores_without_autograd, (x, y), eps=0.6, options=QUICK)
    labels = ig.audit(ig.wrap(labels_without_autograd, classes=5), (x, y), eps=0.2, options=QUICK)
    assert by_rule(scores)["accuracy"].value == by_rule(labels)["accuracy"].value == 1
    assert by_rule(scores)["scores_alone"].value < 1
    assert any("needs gradient, the model gives scores" in limit.why for limit in scores.limits)
    assert "noise" in by_rule(labels)


def test_rows_of_a_table_are_audited_without_pictures() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.rand(20, 6)
    report = ig.audit(net, (x, net(x).argmax(1)), options=QUICK)
    look = next(section for section in report.sections if section.id == "look")
    assert not look.galleries
    assert any(table.id == "features" for table in look.tables)


def test_a_model_that_is_always_wrong_still_gets_a_report(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x, _ = data
    report = ig.audit(net, (x, (net(x).argmax(1) + 1) % 10), options=QUICK, eps=0.2)
    assert by_rule(report)["accuracy"].value == 0
    assert report.worst == "critical"


def test_the_norms_have_thresholds_of_their_own(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    made = [plan(ig.wrap(net), data, Config(norm=norm)).threat for norm in ("linf", "l2", "l1")]
    assert [threat.norm for threat in made] == ["linf", "l2", "l1"]
    assert made[0].eps < made[1].eps < made[2].eps


def test_requests_that_contradict_are_refused(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="No method called 'pdg'"):
        ig.audit(net, data, only=("pdg",))
    with pytest.raises(InputError, match="config= and eps= were both given"):
        ig.audit(net, data, config=Config(), eps=0.1)
    with pytest.raises(InputError, match="data is a tuple of 3"):
        ig.audit(net, (*data, 1))  # type: ignore[arg-type]


def test_the_report_saves_itself_by_its_ending(report: Report, tmp_path: Path) -> None:
    for name in ("a.html", "a.json", "a.md", "a.sarif", "a.xml"):
        report.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 500
    with pytest.raises(InputError, match=r"no report format ends in '\.doc'"):
        report.save(tmp_path / "a.doc")
    assert "srcdoc=" in report._repr_html_()


def test_hostile_names_are_inert(net: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    names = ['<script>alert("1")</script>'] * 10
    report = ig.audit(net, data, labels=names, name="</title><script>x", eps=0.2, only=("fgsm", "saliency"))
    report.save(tmp_path / "a.html")
    assert "<script" not in (tmp_path / "a.html").read_text()


def test_results_are_kept_whole_in_the_cache(net: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    from ironglass.run.cache import Cache

    x, y = data
    cache = Cache(tmp_path)
    first = ig.Runner(net, cache=cache)(get("pgd"), x, y, ig.Linf(0.1), steps=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = ig.Runner(net, cache=cache)(get("pgd"), x, y, ig.Linf(0.1), steps=3)
    assert isinstance(first, AttackResult)
    assert isinstance(second, AttackResult)
    assert torch.equal(first.adversarial, second.adversarial)
    assert first.cost == second.cost
    ig.Runner(net, cache=cache)(get("pgd"), x, y, ig.Linf(0.1), steps=4)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_labels_alone_break_has_its_line_its_finding_and_its_hint(
    net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    options = QUICK | {"square": {"max_queries": 200}, "hop_skip_jump": {"max_queries": 400}}
    report = ig.audit(net, data, eps=0.2, options=options, only=("square", "hop_skip_jump"))
    found = by_rule(report)
    x, y = data
    right = net(x).argmax(1) == y
    jumps = ig.attack.hop_skip_jump(net, x, y, ig.Linf(0.2), max_queries=400, samples=20, tries=5)
    assert found["labels_alone"].value == pytest.approx(float((right & ~jumps.success).sum() / right.sum()))
    assert "From labels alone" in found["labels_alone"].verdict
    assert found["labels_alone"].value < 0.9, "labels alone break some"
    assert "Hiding the scores does not help" in found["labels_alone"].fix
    assert "Hiding the scores does not help" in found["scores_alone"].fix
    (curve,) = (curve for section in report.sections if section.id == "rights" for curve in section.curves)
    assert [series.label for series in curve.series] == ["labels (HopSkipJump)", "scores (Square attack)"]
    assert all(list(series.y) == sorted(series.y) for series in curve.series)
    hidden = by_rule(ig.audit(net, data, eps=0.2, options=options, only=("square",)))
    assert "labels_alone" not in hidden
    assert "return labels instead of scores" in hidden["scores_alone"].fix
