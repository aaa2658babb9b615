from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.explain.lime import lime
from ironglass.ops.observe import ridge
from ironglass.ops.views import Image, Table, Text, cut
from nets import images, small_cnn

WEIGHT = torch.tensor([[2.0, -1.0, 0.5, 0.0, 3.0], [0, 1, 0, -2, 1]], dtype=torch.float64).T


def rows(count: int, columns: int = 5, seed: int = 0) -> Tensor:
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    return x @ WEIGHT.to(x.dtype) + 1


def crossed(x: Tensor) -> Tensor:
    """Scores with a bend and a product, so that no linear model fits them."""
    return torch.stack([(3 * x[:, 0] * x[:, 1] + x[:, 2]).tanh() + x[:, 3] ** 2, x[:, 4]], 1)


@pytest.mark.parametrize("target", [0, 1])
def test_a_linear_model_is_recovered(target: int) -> None:
    x = rows(4)
    result = lime(linear, x, target, samples=64, alpha=1e-9)
    torch.testing.assert_close(result.values, WEIGHT[:, target] * (x - 0.5), rtol=0, atol=1e-8)
    torch.testing.assert_close(result.extras["fit"], torch.ones(4, dtype=torch.float64))
    assert float(result.extras["interval"].max()) < 1e-7
    assert result.cost.forward == 4 * 64


def test_a_model_linear_in_regions_of_images_is_recovered_at_every_pixel() -> None:
    x = images(3, dtype=torch.float64)
    regions = torch.arange(64).reshape(8, 8) % 7
    weight = torch.linspace(-1, 1, 64, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        score = x.flatten(1) @ weight
        return torch.stack([score, -score], 1)

    result = lime(model, x, 0, view=Image(regions=regions), baseline="black", samples=128, alpha=1e-9)
    for part in range(7):
        here = regions == part
        expected = (x[:, 0, here] * weight.reshape(8, 8)[here]).sum(1)
        torch.testing.assert_close(result.values[:, here], expected[:, None].expand(-1, int(here.sum())))


def exact(x: Tensor, alpha: float = 1.0, width: float = 0.25) -> Tensor:
    """The weights from all masks, which random ones only estimate; the penalty grows with their number."""
    keep = torch.tensor(list(itertools.product([False, True], repeat=x.shape[1])))
    closeness = torch.exp(-((1 - keep.double().mean(1).sqrt()) ** 2) / width**2).sqrt()
    parts = cut(x, ig.Bounds(), "table")
    found = []
    for i in range(len(x)):
        y = crossed(parts.masked(keep[None], torch.tensor([i])))[:, 0]
        found.append(ridge(keep[None], y[None, :, None], closeness[None], alpha).weights[0, :, 0])
    return torch.stack(found)


def test_the_weights_are_near_those_of_all_masks_and_the_interval_holds_them() -> None:
    x = rows(40)
    truth = exact(x, 1e-9)
    result = lime(crossed, x, 0, samples=200, alpha=1e-9)
    assert float((result.values - truth).norm() / truth.norm()) < 0.05
    holds = ((result.values - truth).abs() <= result.extras["interval"])[:, :4].double().mean()
    assert float(holds) >= 0.9
    fit = result.extras["fit"]
    assert bool((fit < 1).all())
    assert bool((fit > 0.5).all())


def test_opposite_pairs_err_less_than_independent_masks() -> None:
    x = rows(60)
    truth = exact(x, 1e-9)
    ours = lime(crossed, x, 0, samples=64, alpha=1e-9).values
    keep = torch.rand(60, 64, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    closeness = torch.exp(-((1 - keep.double().mean(2).sqrt()) ** 2) / 0.25**2).sqrt()
    parts = cut(x, ig.Bounds(), "table")
    y = crossed(parts.masked(keep, torch.arange(60))).reshape(60, 64, 2)[..., :1]
    independent = ridge(keep, y, closeness, 1e-9).weights[..., 0]
    assert float((ours - truth).norm()) < 0.8 * float((independent - truth).norm())


def test_the_same_bits_come_again_and_other_seeds_differ() -> None:
    net, x = small_cnn().eval(), images(3)
    first, again, other = (lime(net, x, samples=60, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.values, again.values)
    assert all(torch.equal(first.extras[name], again.extras[name]) for name in first.extras)
    assert not torch.equal(first.values, other.values)


def test_a_sample_alone_is_explained_as_in_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(5)
    whole = lime(crossed, x, 0, samples=50)
    monkeypatch.setattr("ironglass.ops.observe.STORED", 2000)  # a block a sample or two
    monkeypatch.setattr("ironglass.ops.observe.VALUES", 60)
    alone = torch.cat([lime(crossed, x[i : i + 1], 0, samples=50).values for i in range(5)])
    torch.testing.assert_close(alone, whole.values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lime(crossed, x, 0, samples=50).values, whole.values, rtol=1e-12, atol=1e-12)


def test_a_table_is_explained_against_its_background() -> None:
    background, x = rows(30, seed=8), rows(3)
    result = lime(linear, x, 0, samples=6000, alpha=1e-9, view=Table(background))
    expected = WEIGHT[:, 0] * (x - background.mean(0))
    assert float((result.values - expected).abs().max()) < 0.15
    assert float(result.extras["fit"].max()) < 0.999, "rows drawn by chance are not explained"


def test_tokens_are_parts_and_padding_has_no_weight() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 9.0, 9.0]], dtype=torch.float64)
    model = ig.wrap(lambda x: torch.stack([x[:, 0] - 2 * x[:, 2], x[:, 1]], 1), bounds=(0, 9))
    result = lime(model, x, 0, view=Text(padding=9), samples=200, alpha=1e-6)
    torch.testing.assert_close(
        result.values[0], torch.tensor([1.0, 0, -6, 0, 0], dtype=torch.float64), atol=1e-5, rtol=0
    )
    assert result.extras["parts"].tolist() == [[0, 1, 2, -1, -1]]


def test_probabilities_are_explained_on_request() -> None:
    x = rows(2)
    logits = lime(linear, x, 0, samples=64)
    shares = lime(linear, x, 0, samples=64, output="probability")
    assert not torch.allclose(logits.values, shares.values)
    assert float(shares.values.abs().max()) < 1


@pytest.mark.parametrize("wrong", [{"samples": 3}, {"width": 0.0}, {"alpha": -1.0}])
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="samples="):
        lime(linear, rows(2), 0, **wrong)  # type: ignore[arg-type]
