from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import ironglass as ig
from ironglass.core.errors import InputError
from nets import images, small_cnn


def test_maps_of_the_same_samples_stand_side_by_side() -> None:
    net, x = small_cnn().eval(), images(4)
    maps = [ig.explain.saliency(net, x), ig.explain.integrated_gradients(net, x, tol=0.5)]
    figure = maps[0].plot(maps[1], rows=3, names=["a", "b"])
    assert len(figure.axes) == 9
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["sample", "Saliency", "Integrated gradients"] or len(titles) == 3
    with pytest.raises(InputError, match="different samples"):
        maps[0].plot(ig.explain.saliency(net, x[:2]))


def test_a_signed_map_is_red_where_positive_and_blue_where_negative() -> None:
    net, x = small_cnn().eval(), images(1)
    found = ig.explain.saliency(net, x)
    values = torch.zeros_like(found.values)
    values[..., :4], values[..., 4:] = 1, -1
    from dataclasses import replace

    figure = replace(found, values=values).plot()
    figure.canvas.draw()  # type: ignore[no-untyped-call]
    axis = figure.axes[1]
    box = axis.get_window_extent()
    pixels = np.asarray(figure.canvas.buffer_rgba())[::-1]  # type: ignore[attr-defined]
    row = int((box.y0 + box.y1) / 2)
    left, right = (pixels[row, int(box.x0 + share * box.width)] for share in (0.2, 0.8))
    assert left[0] > left[2]
    assert right[2] > right[0]


def test_an_attack_shows_before_and_after_and_a_notebook_gets_a_picture() -> None:
    net, x = small_cnn().eval(), images(3)
    y = net(x).argmax(1)
    result = ig.attack.fgsm(net, x, y, ig.Linf(0.3))
    assert len(result.plot().axes) == 9
    data = result._repr_png_()
    assert data is not None
    assert min(Image.open(io.BytesIO(data)).size) > 100


def test_tables_get_bars_and_what_has_no_figure_says_so() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(5, 3)).eval()
    x = torch.rand(4, 5)
    assert len(ig.explain.saliency(net, x).plot().axes) == 4
    score = ig.metric.completeness(net, ig.explain.saliency(net, x))
    with pytest.raises(InputError, match="no figure of Score"):
        score.plot()
    assert score._repr_png_() is None


def test_uncertainty_of_classes_is_a_bar_a_sample_and_of_pixels_a_map() -> None:
    x = images(4)
    found = ig.explain.mc_dropout(small_cnn().eval(), x, samples=5)
    figure = found.plot(rows=3, names=list("abcde"))
    assert len(figure.axes[0].patches) == 6
    width = sum(patch.get_width() for patch in figure.axes[0].patches[::3])  # type: ignore[attr-defined]
    assert width == pytest.approx(float(found.total[0]), rel=1e-4)
    net = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Conv2d(1, 3, 1)).eval()
    maps = ig.explain.mc_dropout(net, x, samples=5)
    drawn = maps.plot(rows=2)
    assert [axis.get_title() for axis in drawn.axes[:4]] == ["sample", "answer", "aleatoric", "epistemic"]
    shown = drawn.axes[3].images[0].get_array()
    assert np.allclose(np.asarray(shown), maps.epistemic[0].numpy())


def test_a_reliability_diagram_has_a_bar_a_bin_and_the_diagonal() -> None:
    net, x = small_cnn().eval(), images(60)
    y = torch.arange(60) % 5
    study = ig.metric.calibration({"net": net, "twin": net}, x, y, bins=10, resamples=5)
    figure = study.plot()
    assert [axis.get_title() for axis in figure.axes] == ["net", "twin"]
    heights = [patch.get_height() for patch in figure.axes[0].patches]  # type: ignore[attr-defined]
    assert np.allclose(heights, study.extras["net: accuracy"].numpy())
    quality = ig.metric.uncertainty_quality(ig.explain.mc_dropout(net, x, samples=3), y)
    assert len(quality.plot().axes[0].patches) == 15
    with pytest.raises(InputError, match="no figure of Study"):
        ig.metric.transfer_matrix([net, net], x[:4], y[:4], ig.Linf(0.1), steps=1).plot()
