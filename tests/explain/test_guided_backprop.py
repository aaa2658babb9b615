from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ironglass.core.errors import InputError
from ironglass.explain.grad_cam import grad_cam
from ironglass.explain.guided_backprop import guided_backprop
from ironglass.explain.guided_grad_cam import guided_grad_cam
from nets import images, small_cnn


class Way(nn.Module):
    """The same network with ReLUs as modules, functions, methods, in place, or one module in two places."""

    def __init__(self, how: str) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(64, 20), nn.Linear(20, 20), nn.Linear(20, 4)
        self.how, self.shared = how, nn.ReLU()
        self.places = {
            "function": F.relu,
            "method": lambda t: t.relu(),
            "in place": lambda t: F.relu(t, inplace=True),
            "in place method": lambda t: t.relu_(),
            "clamp": lambda t: t.clamp(min=0),
            "shared": self.shared,
        }

    def forward(self, x: Tensor) -> Tensor:
        act = self.places[self.how]
        return self.c(act(self.b(act(self.a(x.flatten(1))))))


def by_hand(net: Way, x: Tensor, target: int, guided: bool) -> Tensor:
    z1 = net.a(x.flatten(1))
    z2 = net.b(z1.relu())
    g = net.c.weight[target].expand(len(x), -1).clamp(min=0)
    g = (g * (z2 > 0) if guided else g) @ net.b.weight
    g = g.clamp(min=0)
    return ((g * (z1 > 0) if guided else g) @ net.a.weight).reshape(x.shape).detach()


@pytest.mark.parametrize("how", ["function", "method", "in place", "in place method", "clamp", "shared"])
@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
def test_it_agrees_with_the_formula_however_relu_is_called(how: str, rule: str) -> None:
    net, x = Way(how).double().eval(), images(3, dtype=torch.float64)
    found = guided_backprop(net, x, 2, rule=rule).values  # type: ignore[arg-type]
    torch.testing.assert_close(found, by_hand(net, x, 2, rule == "guided"), rtol=1e-12, atol=1e-14)


def test_a_network_without_rectifiers_is_refused() -> None:
    with pytest.raises(InputError, match="no rectifier"):
        guided_backprop(nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh()).eval(), images(2))
    with pytest.raises(InputError, match="did you mean guided"):
        guided_backprop(small_cnn().eval(), images(2), rule="guide")  # type: ignore[arg-type]


def test_guided_grad_cam_is_the_product() -> None:
    net, x = small_cnn().eval(), images(3)
    found = guided_grad_cam(net, x, 1)
    expected = guided_backprop(net, x, 1).values * grad_cam(net, x, 1).values[:, None]
    assert torch.equal(found.values, expected)
    assert (found.cost.forward, found.cost.backward) <= (9, 9)
