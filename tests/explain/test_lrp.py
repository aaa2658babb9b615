from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from architectures import ARCHITECTURES, build, pictures
from ironglass.core.errors import AccessError, InputError
from ironglass.explain.lrp import lrp
from ironglass.models.adapter import wrap
from ironglass.models.network import Torch
from nets import images, scores_without_autograd, small_cnn


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_conserved_through_the_adapter(name: str) -> None:
    x = pictures(2)
    result = lrp(wrap(build(name, bias=False)), x)
    assert result.values.shape == x.shape
    assert result.error is not None
    assert float(result.error.max()) <= 1e-3
    assert (result.cost.forward, result.cost.backward) == (2, 2)


def test_the_map_and_what_is_absorbed_add_up_to_the_logit() -> None:
    net, x, target = (
        build("resnet_basic", dtype=torch.float64),
        pictures(3, dtype=torch.float64),
        torch.tensor([2, 0, 1]),
    )
    result = lrp(net, x, target)
    logits = net(x).gather(1, target[:, None])[:, 0].detach()
    absorbed = result.extras["absorbed"]
    torch.testing.assert_close(result.values.flatten(1).sum(1) + absorbed, logits, rtol=1e-9, atol=1e-12)
    assert result.error is not None
    torch.testing.assert_close(result.error, absorbed.abs() / logits.abs(), rtol=1e-9, atol=1e-12)
    assert float(result.error.max()) > 1e-3  # this network has biases


@pytest.mark.parametrize("name", ["vgg", "resnet_bottleneck", "efficientnet", "vit"])
@pytest.mark.parametrize("rules", ["epsilon", "epsilon_gamma_box", "epsilon_plus_flat"])
def test_the_fast_copy_and_the_network_itself_agree(name: str, rules: str) -> None:
    net, x = build(name, dtype=torch.float64), pictures(dtype=torch.float64)
    fast, plain = (
        wrap(net, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.2]),
        wrap(net, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.2]),
    )
    assert isinstance(plain.backend, Torch)
    plain.backend._optimize = False
    first, second = (lrp(model, x, 1, composite=rules, epsilon=1e-3) for model in (fast, plain))  # type: ignore[arg-type]
    assert plain.backend._copy is None
    torch.testing.assert_close(first.values, second.values, rtol=1e-7, atol=1e-9)


def test_pixels_in_other_units_get_the_same_relevance() -> None:
    net, x = build("vgg", dtype=torch.float64), pictures(dtype=torch.float64)
    unit = lrp(wrap(net, mean=0.5, std=0.25), x, 1)
    bytes_ = lrp(wrap(net, bounds=(0, 255), mean=127.5, std=63.75), x * 255, 1)
    torch.testing.assert_close(unit.values, bytes_.values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_is_kept(dtype: torch.dtype) -> None:
    result = lrp(build("resnet_basic", dtype=dtype), pictures(dtype=dtype), 1)
    assert result.values.dtype == dtype
    assert bool(result.values.isfinite().all())


def test_a_network_is_untouched_and_a_trainable_one_can_go_on() -> None:
    net = build("mobilenet_v3").train()
    before = copy.deepcopy(net.state_dict())
    with pytest.warns(UserWarning, match="train mode"):
        lrp(net, pictures())
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    net(pictures()).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


class Folded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cumprod(x.flatten(1) + 0.5, 1))


def test_a_function_that_no_rule_is_known_for_is_named() -> None:
    net = Folded()
    with pytest.raises(InputError, match="relevance cannot pass the function cumprod"):
        lrp(net.eval(), images(2))
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_scripted_network_is_refused() -> None:
    scripted = torch.jit.trace(small_cnn().eval(), images(2))  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match=r"relevance (never reaches the input|cannot pass)"):
        lrp(scripted, images(2))


def test_wrong_options_and_closed_models_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean epsilon_plus"):
        lrp(small_cnn().eval(), images(2), composite="epsilon_pluss")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="negative"):
        lrp(small_cnn().eval(), images(2), epsilon=-1.0)
    with pytest.raises(AccessError, match="lrp needs internals"):
        lrp(scores_without_autograd, images(2))


def test_patents_are_mentioned() -> None:
    assert "patents" in lrp.card.doc
