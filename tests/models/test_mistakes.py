"""The mistakes people make, and that each is answered before any work with what is wrong and what to do."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import ironglass as ig
from ironglass.core.errors import AccessError, InputError, IronglassWarning
from nets import images, small_cnn


@pytest.fixture
def model() -> ig.Adapter:
    return ig.wrap(small_cnn().eval())


Y = torch.arange(4)


def test_pixels_from_0_to_255(model: ig.Adapter) -> None:
    with pytest.raises(
        InputError, match=r"x ranges over \[0, 255\] but the model's bounds are \[0, 1\]\n  Fix: x / 255"
    ):
        ig.attack.pgd(model, images(4) * 255, Y, ig.Linf(0.1))


def test_inputs_already_normalized(model: ig.Adapter) -> None:
    with pytest.raises(InputError, match=r"normalize with mean= and std="):
        ig.explain.saliency(model, images(4) * 4 - 2)


def test_eps_8_in_place_of_8_over_255(model: ig.Adapter) -> None:
    with pytest.warns(IronglassWarning, match=r"covers the whole input range .* Fix: did you mean eps = 8/255\?"):
        ig.attack.fgsm(model, images(4), Y, ig.Linf(8))


def test_one_label_too_few(model: ig.Adapter) -> None:
    with pytest.raises(InputError, match=r"3 labels for 4 samples\n  Fix: give one label a sample"):
        ig.attack.pgd(model, images(4), Y[:3], ig.Linf(0.1))


def test_a_label_out_of_range(model: ig.Adapter) -> None:
    with pytest.raises(InputError, match=r"labels \[12\] are out of range, the model has 5 classes \(0 to 4\)"):
        ig.attack.pgd(model, images(4), torch.tensor([0, 12, 1, 2]), ig.Linf(0.1))


def test_a_pixel_that_is_not_a_number(model: ig.Adapter) -> None:
    x = images(4)
    x[2, 0, 3, 3] = float("nan")
    with pytest.raises(InputError, match=r"NaN or infinity in samples \[2\]"):
        ig.explain.saliency(model, x)


def test_train_mode_is_named_and_left_alone() -> None:
    net = small_cnn()
    statistics = net.bn.running_mean.clone()  # type: ignore[union-attr]
    with pytest.warns(IronglassWarning, match=r"train mode; .* Fix: call net.eval\(\)"):
        ig.attack.fgsm(net, images(4), Y, ig.Linf(0.1))
    assert net.training
    assert torch.equal(net.bn.running_mean, statistics)  # type: ignore[arg-type]


def test_probabilities_in_place_of_logits() -> None:
    with pytest.warns(IronglassWarning, match=r"look like probabilities.* Fix: drop the softmax"):
        ig.attack.fgsm(nn.Sequential(small_cnn(), nn.Softmax(1)).eval(), images(4), Y, ig.Linf(0.1))


def test_gradients_left_on_parameters_are_neither_used_nor_changed() -> None:
    net = small_cnn().eval()
    clean = ig.explain.saliency(net, images(4))
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    assert torch.equal(ig.explain.saliency(net, images(4)).values, clean.values)
    assert all(bool((parameter.grad == 7).all()) for parameter in net.parameters() if parameter.grad is not None)


def test_integers_lists_and_missing_batches(model: ig.Adapter) -> None:
    with pytest.raises(InputError, match="x is uint8"):
        ig.explain.saliency(model, (images(2) * 255).byte())
    with pytest.raises(InputError, match="x is list"):
        ig.explain.saliency(model, [[1.0]])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="N ≥ 1"):
        ig.explain.saliency(model, images(2)[:0])
    with pytest.raises(InputError, match="labels are float32"):
        ig.attack.fgsm(model, images(4), Y.float(), ig.Linf(0.1))


def test_a_wrong_shape_names_the_shape(model: ig.Adapter) -> None:
    with pytest.raises(InputError, match=r"the model fails on a batch of shape \(4, 3, 8, 8\)"):
        ig.explain.saliency(model, images(4).repeat(1, 3, 1, 1))


def test_a_mask_of_another_shape(model: ig.Adapter) -> None:
    with pytest.raises(InputError, match=r"a mask of shape \(1, 1, 3, 3\) for samples of shape \(4, 1, 8, 8\)"):
        ig.attack.fgsm(model, images(4), Y, ig.Linf(0.1, mask=torch.ones(3, 3)))


def test_an_unknown_norm_for_a_method(model: ig.Adapter) -> None:
    with pytest.raises(InputError, match="fgsm works in linf, l2, l1, not in l0"):
        ig.attack.fgsm(model, images(4), Y, ig.L0(3))


def test_wrong_class_counts_and_wrong_labels() -> None:
    with pytest.raises(InputError, match="3 labels for 5 classes"):
        ig.wrap(small_cnn().eval(), labels=["a", "b", "c"]).scores(images(2))
    with pytest.raises(InputError, match="gives 5 classes, 7 were declared"):
        ig.wrap(small_cnn().eval(), classes=7).scores(images(2))


def test_what_cannot_be_wrapped() -> None:
    with pytest.raises(InputError, match="cannot wrap str"):
        ig.wrap("model")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="did you mean scores"):
        ig.wrap(small_cnn().eval(), access="score")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="normalize inside the function"):
        ig.wrap(lambda x: x, mean=0.5)


def test_a_black_box_has_no_gradient_and_the_error_says_what_fits() -> None:
    with pytest.raises(
        AccessError, match=r"pgd needs gradient, this model gives scores.\n  Fix: try: ironglass list attack"
    ):
        ig.attack.pgd(lambda x: x.flatten(1)[:, :5], images(4), Y, ig.Linf(0.1))


def test_no_warning_where_all_is_well(model: ig.Adapter) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ig.attack.fgsm(model, images(4), Y, ig.Linf(0.1))
