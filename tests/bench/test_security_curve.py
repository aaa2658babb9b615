"""Curves of linear models are known exactly: a sample falls at its distance from the boundary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import ironglass as ig
from bench.linear import distance, halves, linear
from ironglass.bench.security_curve import SecurityCurve
from ironglass.core.errors import InputError
from ironglass.core.findings import Curve
from ironglass.core.statistics import wilson
from metric.broken import CNN

RADII = (0.03, 0.06, 0.09, 0.12, 0.2)


@pytest.mark.parametrize(("norm", "scale"), [("linf", 1.0), ("l2", 2.0), ("l1", 4.0)])
@pytest.mark.parametrize("attack", ["pgd", "fmn"])
def test_a_linear_model_falls_at_its_distance(norm: str, scale: float, attack: str) -> None:
    first, second, x, y = halves()
    models = {"first": linear(first), "both": linear(first + 0.5 * second)}
    radii = tuple(scale * radius for radius in RADII)
    threat = ig.Threat(norm, radii[-1])  # type: ignore[arg-type]
    found = ig.bench.security_curve(models, x, y, threat, attacks=(attack,), radii=radii, steps=30)
    for row, weight in enumerate((first, first + 0.5 * second)):
        exact = distance(weight, x, norm)
        clear = (exact[:, None] - torch.tensor(radii)).abs().amin(1) > 1e-3 * scale
        assert clear.sum() > 30
        if attack == "fmn":
            assert torch.allclose(found.broken[row], exact, rtol=5e-3)
        else:
            steps = torch.tensor([*radii, torch.inf], dtype=torch.double)
            assert torch.equal(found.broken[row][clear], steps[torch.searchsorted(steps, exact[clear])])
    assert found.whole == ((attack == "fmn"),) * 2
    assert found.values[:, 0].tolist() == [1, 1]
    assert bool((found.values.diff(dim=1) <= 0).all())


def test_figures_are_counts_with_wilsons_interval_and_half_is_the_median() -> None:
    first, _, x, y = halves()
    y = y.clone()
    y[:7] = 0  # wrong without attack
    found = ig.bench.security_curve(linear(first), x, y, ig.Linf(0.2), attacks=("fmn",), points=4)
    assert found.radii.tolist() == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    exact = distance(first, x, "linf")
    exact[:7] = 0
    assert found.values[0].tolist() == [float((exact > radius).double().mean()) for radius in found.radii.tolist()]
    kept = round(float(found.values[0, 2]) * len(x))
    assert (float(found.low[0, 2]), float(found.high[0, 2])) == pytest.approx(wilson(kept, len(x)))
    assert found.half(0) == pytest.approx(float(exact[7:].sort().values[16]), rel=5e-3)
    assert found.notes[0].startswith("model 0: 33 of 40 right without attack; has lost half of them at eps ")


def test_what_has_fallen_is_not_tried_again() -> None:
    first, _, x, y = halves()
    far = ig.bench.security_curve(linear(first), x, y, ig.Linf(0.3), attacks=("fgsm",), radii=(0.25, 0.3))
    assert float(far.values[0, 1]) == 0
    assert far.cost.backward == len(x), "all fall at the first radius"


def test_digits_curves_are_drawn_saved_and_ordered(
    tmp_path: Path, pair: dict[str, CNN], held_out: tuple[Tensor, Tensor]
) -> None:
    x, y = held_out
    found = ig.bench.security_curve(
        pair, x, y, ig.Linf(0.2), attacks=("pgd", "fmn", "random_noise"), points=4, steps=20
    )
    assert found.row_names[:3] == ("standard, pgd", "standard, fmn", "standard, random_noise")
    lines = dict(zip(found.row_names, found.values, strict=True))
    assert float(lines["robust, fmn"][2]) > float(lines["standard, fmn"][2]) + 0.1
    assert bool((lines["standard, random_noise"] >= lines["standard, pgd"]).all())
    (curve,) = found.charts()
    assert isinstance(curve, Curve)
    assert [line.role for line in curve.series] == ["attack", "attack", "control"] * 2
    assert found._repr_png_()[:4] == b"\x89PNG"  # type: ignore[index]
    found.save(tmp_path / "curve.safetensors")
    back = ig.load(tmp_path / "curve.safetensors")
    assert isinstance(back, SecurityCurve)
    assert back.table() == found.table()
    assert back.charts() == found.charts()


def test_values_are_counted_on_the_l0_grid() -> None:
    x, y = torch.full((4, 6), 0.6, dtype=torch.double), torch.ones(4, dtype=torch.long)
    net = linear(torch.ones(6, dtype=torch.double))
    found = ig.bench.security_curve(net, x, y, ig.L0(3), attacks=("fmn",), points=6)
    assert found.radii.tolist() == [0, 1, 2, 3], "one value moves the sum by 0.6, which is the margin"
    assert float(found.values[0, 0]) == 1
    assert float(found.values[0, -1]) == 0


def test_wrong_requests_are_refused() -> None:
    first, _, x, y = halves()
    with pytest.raises(InputError, match="points=0"):
        ig.bench.security_curve(linear(first), x, y, ig.Linf(0.1), points=0)
    with pytest.raises(InputError, match="finite eps above 0"):
        ig.bench.security_curve(linear(first), x, y, ig.Linf(float("inf")))
    with pytest.raises(InputError, match="radii="):
        ig.bench.security_curve(linear(first), x, y, ig.Linf(0.1), radii=(0.0, 0.1))
