from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.values import Bounds
from ironglass.ops.superpixels import grid, superpixels
from ironglass.ops.views import Audio, Image, Parts, Table, Text, cut
from nets import images

BOUNDS = Bounds()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def background() -> Tensor:
    return (noise(50, 5, seed=3) * 7).floor() / 7


CASES = {
    "superpixels": (noise(3, 3, 24, 20), Image(12)),
    "grid": (noise(3, 1, 11, 9), Image(6, "grid")),
    "given regions": (noise(2, 3, 4, 6), Image(regions=torch.arange(24).reshape(4, 6) % 5 - 1)),
    "table": (noise(4, 5), Table()),
    "background": (background()[:4], Table(background())),
    "tokens": (noise(3, 7), Text()),
    "vectors": (noise(3, 7, 4), Text()),
    "sound": (noise(3, 1, 50), Audio(6)),
    "raw sound": (noise(3, 50), Audio(6)),
}
cases = pytest.mark.parametrize("name", CASES)


def parted(name: str) -> tuple[Tensor, Parts]:
    x, view = CASES[name]
    return x, cut(x, BOUNDS, view)


def keeps(parts: Parts, count: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(len(parts.x), count, parts.count, generator=generator) < 0.5
    return keep, torch.arange(len(parts.x)), torch.randint(1 << 30, (len(parts.x), count), generator=generator)


def cells(parts: Parts, x: Tensor) -> Tensor:
    """The part of each value of each sample, one sample at a time."""
    labels = parts.labels.expand(len(x), *parts.labels.shape[1:])
    return (labels if parts.axis is None else labels.unsqueeze(parts.axis)).expand_as(x)


@cases
def test_all_parts_make_the_sample_and_a_mask_touches_nothing_outside_its_parts(name: str) -> None:
    x, parts = parted(name)
    keep, rows, draw = keeps(parts, 8)
    whole = parts.masked(torch.ones_like(keep), rows, draw).reshape(len(x), 8, *x.shape[1:])
    assert torch.equal(whole, x[:, None].expand_as(whole))
    none = parts.masked(torch.zeros_like(keep), rows, draw).reshape(whole.shape)
    some = parts.masked(keep, rows, draw).reshape(whole.shape)
    label = cells(parts, x)
    for i in range(len(x)):
        for k in range(8):
            for part in range(-1, parts.count):
                here = label[i] == part
                stays = part < 0 or bool(keep[i, k, part])
                assert torch.equal(some[i, k][here], (x[i] if stays else none[i, k])[here])


@cases
def test_a_part_of_the_samples_is_masked_as_in_the_whole(name: str) -> None:
    x, parts = parted(name)
    keep, rows, draw = keeps(parts, 3)
    pick = torch.tensor([1, 0])
    whole = parts.masked(keep, rows, draw).reshape(len(x), 3, *x.shape[1:])
    again = parts.masked(keep[pick], pick, draw[pick]).reshape(2, 3, *x.shape[1:])
    assert torch.equal(again, whole[pick])


@cases
def test_a_map_has_the_weight_of_each_cell(name: str) -> None:
    x, parts = parted(name)
    weights = noise(len(x), parts.count, seed=4)
    spread = parts.spread(weights)
    labels = parts.labels.expand(len(x), *parts.labels.shape[1:])
    assert spread.shape == labels.shape
    for i in range(len(x)):
        for part in range(parts.count):
            assert bool((spread[i][labels[i] == part] == weights[i, part]).all())
            assert int(parts.sizes()[i, part]) == int((labels[i] == part).sum())
    assert bool((spread[labels < 0] == 0).all())


def test_regions_are_replaced_by_their_mean_colour() -> None:
    x, parts = parted("superpixels")
    for i in range(len(x)):
        for part in range(parts.count):
            here = parts.labels[i] == part
            if bool(here.any()):
                expected = x[i][:, here].mean(1, keepdim=True).expand(-1, int(here.sum()))
                torch.testing.assert_close(parts.removed[i][:, here], expected)
    grey = cut(x, BOUNDS, Image(12), "mid")
    assert torch.equal(grey.removed, torch.full_like(x, 0.5))


def test_superpixels_follow_colours_and_do_not_depend_on_the_batch() -> None:
    x = torch.zeros(2, 3, 32, 32)
    x[0, 0, :, 19:] = 1  # an edge that no cell of the grid has
    x[1] = images(1, seed=5).repeat(1, 3, 4, 4)[0]
    labels = superpixels(x, 16)
    both = set(labels[0, :, :19].flatten().tolist()) & set(labels[0, :, 19:].flatten().tolist())
    assert not both, "no superpixel crosses the edge"
    assert torch.equal(superpixels(x[1:], 16), labels[1:])
    assert int(labels.max()) < int(grid(x, 16).max()) + 1 == 16


@pytest.mark.parametrize(
    ("height", "width", "count"), [(8, 8, 49), (224, 224, 49), (5, 50, 10), (3, 3, 100), (7, 1, 3)]
)
def test_a_grid_has_about_so_many_cells_and_none_is_empty(height: int, width: int, count: int) -> None:
    labels = grid(torch.zeros(1, 1, height, width), count)
    found = labels.unique()
    assert torch.equal(found, torch.arange(len(found)))
    assert min(count, height * width) / 1.5 <= len(found) <= min(1.5 * count, height * width)


def test_a_background_gives_whole_rows_and_bins_give_like_values() -> None:
    rows = background()
    x = rows[:4]
    parts = cut(x, BOUNDS, Table(rows, bins=3))
    keep = torch.zeros(4, 200, 5, dtype=torch.bool)
    keep[:, :, 1] = True
    draw = torch.randint(1 << 30, (4, 200), generator=torch.Generator().manual_seed(0))
    found = parts.masked(keep, torch.arange(4), draw).reshape(4, 200, 5)
    others = [0, 2, 3, 4]
    known = {tuple(row) for row in rows[:, others].tolist()}
    assert {tuple(row) for row in found[..., others].reshape(-1, 4).tolist()} <= known
    alike = parts.alike(2)
    allowed = set(rows[alike[:, 1], 1].tolist())
    assert set(found[2, :, 1].tolist()) == allowed, "every value of the bin is drawn, and no other"
    assert len(allowed) > 1
    assert bool(alike[2].all()), "a sample is like itself"
    plain = cut(x, BOUNDS, Table(rows)).alike(2)
    assert torch.equal(plain, rows == x[2])


def test_padding_stays_and_is_no_part() -> None:
    x = torch.tensor([[3.0, 4.0, 9.0, 9.0], [3.0, 9.0, 9.0, 9.0]])
    parts = cut(x, Bounds(0, 10), Text(padding=9))
    gone = parts.masked(torch.zeros(2, 1, 4, dtype=torch.bool), torch.arange(2))
    assert gone.tolist() == [[0, 0, 9, 9], [0, 9, 9, 9]]
    assert parts.sizes().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]


def test_bands_of_sound_add_up_and_lie_apart() -> None:
    time = torch.arange(256, dtype=torch.float64) / 256
    low, high = (2 * torch.pi * 8 * time).sin(), 0.5 * (2 * torch.pi * 100 * time).sin()
    x = (low + high)[None, None]
    parts = cut(x, Bounds(-2, 2), Audio(1, bands=2))
    keep = torch.tensor([[[True, True], [True, False], [False, True], [False, False]]])
    both, first, second, none = parts.masked(keep, torch.arange(1))[:, 0]
    torch.testing.assert_close(both, x[0, 0])
    torch.testing.assert_close(first, low, rtol=0, atol=1e-9)
    torch.testing.assert_close(second, high, rtol=0, atol=1e-9)
    assert not bool(none.any())
    assert parts.spread(torch.tensor([[1.0, 2.0]])).shape == (1, 2, 256)


def test_the_shape_tells_the_view() -> None:
    assert cut(noise(2, 3, 16, 16), BOUNDS).count == 49
    assert cut(noise(2, 5), BOUNDS).count == 5
    assert cut(noise(2, 1, 100), BOUNDS).count == 20
    assert cut(noise(2, 9, 16), BOUNDS).count == 9
    with pytest.raises(InputError, match="fit no view"):
        cut(noise(2, 3, 4, 5, 6), BOUNDS)


@pytest.mark.parametrize(
    ("x", "view", "message"),
    [
        (noise(2, 5), "grid", "wants an image"),
        (noise(2, 3, 8, 8), "table", "wants a row"),
        (noise(2, 5), "tables", "did you mean table"),
        (noise(2, 3, 8, 8), Image(regions="slik"), "no regions"),
        (noise(2, 3, 8, 8), Image(regions=torch.zeros(4, 4, dtype=torch.long)), "regions are"),
        (noise(2, 5), Table(noise(3, 4)), "rows of 5 columns"),
        (noise(2, 5), {"kind": "Table"}, "does not hold its view"),
    ],
)
def test_what_does_not_fit_is_refused(x: Tensor, view: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut(x, BOUNDS, view)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="leave one of them out"):
        cut(noise(2, 5), BOUNDS, Table(noise(3, 5)), "black")
