from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.explain.extremal_perturbation import _ideal, _shown, extremal_perturbation
from nets import images, small_cnn

TOP, LEFT, SIZE, SIDE = 20, 28, 20, 64
AREAS = (0.05, SIZE * SIZE / SIDE**2, 0.2)


class Texture(nn.Module):
    """The score is the texture in one square; elsewhere there is as much, and it does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        change = (x[:, :, 1:, :-1] - x[:, :, :-1, :-1]).abs().sum(1)
        score = self.gain * change[:, TOP : TOP + SIZE, LEFT : LEFT + SIZE].flatten(1).sum(1)
        return torch.stack([score, torch.zeros_like(score)], 1)


def noise(count: int = 1) -> Tensor:
    return (torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def inside() -> Tensor:
    truth = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    truth[TOP : TOP + SIZE, LEFT : LEFT + SIZE] = True
    return truth


@pytest.fixture(scope="module")
def preserved() -> ig.Attribution:
    return extremal_perturbation(Texture().eval(), noise(), 0, areas=AREAS, steps=100)


def test_areas_are_as_asked_for(preserved: ig.Attribution) -> None:
    masks = preserved.extras["masks"][0]
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1
    for mask, area in zip(masks, AREAS, strict=True):
        assert float(mask.mean()) == pytest.approx(area, rel=0.01)
    torch.testing.assert_close(preserved.values[0], masks.mean(0))
    black_or_white = ((masks < 0.2) | (masks > 0.8)).double().mean()
    assert float(black_or_white) > 0.85


def test_the_evidence_is_found_where_it_is(preserved: ig.Attribution) -> None:
    lit, truth = preserved.extras["masks"][0] > 0.5, inside()
    small, right, large = lit
    assert float((small & truth).sum() / small.sum()) > 0.95
    assert float((right & truth).sum() / (right | truth).sum()) > 0.8
    assert float((large & truth).sum() / truth.sum()) > 0.9


def test_more_area_preserves_more(preserved: ig.Attribution) -> None:
    energy = preserved.extras["energy"][0]
    assert energy.tolist() == sorted(energy.tolist())
    with torch.no_grad():
        torch.testing.assert_close(energy[2] / Texture()(noise())[0, 0], torch.tensor(1.0), rtol=0, atol=0.2)
    assert preserved.cost.forward == 3 * 100 + 3 * 5 + 2 + 8
    assert preserved.cost.backward == 3 * 100 + 8


def test_deletion_blurs_the_evidence() -> None:
    result = extremal_perturbation(Texture().eval(), noise(), 0, areas=AREAS[1:2], mode="delete", steps=100)
    lit, truth = result.extras["masks"][0, 0] > 0.5, inside()
    assert float((lit & truth).sum() / (lit | truth).sum()) > 0.7
    with torch.no_grad():
        assert float(result.extras["energy"]) < 0.25 * float(Texture()(noise())[0, 0])


def test_a_mask_of_ones_is_the_image_and_of_zeros_the_soft_one() -> None:
    x, soft = torch.rand(2, 2, 3, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ones = torch.ones(6, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(_shown(x, soft, ones), x.repeat_interleave(3, 0))
    assert torch.equal(_shown(x, soft, 0 * ones), soft.repeat_interleave(3, 0))
    torch.testing.assert_close(_shown(x, soft, 0.25 * ones)[4], 0.75 * soft[1] + 0.25 * x[1])


def test_the_ideal_mask_is_ones_at_the_highest_pixels_and_ties_share() -> None:
    mask = torch.tensor([[0.1, 0.9, 0.5, 0.5, 0.5, 0.2, 0.8, 0.0, 0.3, 0.4]])[None]
    assert _ideal(mask, [0.2]).flatten().tolist() == [0, 1, 0, 0, 0, 0, 1, 0, 0, 0]
    torch.testing.assert_close(
        _ideal(mask, [0.4]).flatten(), torch.tensor([0, 1, 2 / 3, 2 / 3, 2 / 3, 0, 1, 0, 0, 0]), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(_ideal(torch.ones(2, 4, 5), [0.1, 0.3]).flatten(1).mean(1), torch.tensor([0.1, 0.3]))


def test_a_sample_alone_has_the_masks_it_has_in_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(3, dtype=torch.float64)
    whole = extremal_perturbation(net, x, 1, steps=8)
    monkeypatch.setattr("ironglass.ops.observe.STORED", 1)
    parts = extremal_perturbation(net, x, 1, steps=8)
    torch.testing.assert_close(parts.extras["masks"], whole.extras["masks"], rtol=1e-9, atol=1e-9)
    assert whole.values.shape == (3, 8, 8)
    assert whole.extras["energy"].shape == (3, 4)


@pytest.mark.parametrize("wrong", [{"areas": ()}, {"areas": (0.1, 1.0)}, {"steps": 0}, {"mode": "both"}])
def test_options_out_of_range_and_other_shapes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        extremal_perturbation(small_cnn().eval(), images(1), 0, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="for images"):
        extremal_perturbation(nn.Linear(3, 2).eval(), torch.rand(2, 3), 0)
