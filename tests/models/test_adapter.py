from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import AccessError, BudgetExceeded, InputError
from ironglass.core.values import Avoid, Reach
from ironglass.models.network import Torch
from ironglass.models.session import Session
from nets import images, labels_without_autograd, scores_without_autograd, small_cnn


def session(net: object, x: Tensor, **more: object) -> Session:
    return ig.wrap(net).session(x, **more)[0]  # type: ignore[arg-type]


def test_units_are_the_users_and_normalization_lies_inside() -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(3, dtype=torch.float64)
    model = ig.wrap(net, mean=0.3, std=0.2)
    assert torch.allclose(model.scores(x), net((x - 0.3) / 0.2))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net((leaf - 0.3) / 0.2)[:, 1].sum(), leaf)
    got = session(model, x).value_and_grad(x, lambda scores, rows: scores[:, 1])
    assert torch.allclose(got.grad, expected)
    assert torch.allclose(got.value, model.scores(x)[:, 1])


def test_one_mean_a_channel_and_one_a_feature() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4, 2)).eval()
    x = torch.rand(2, 3, 2, 2)
    mean = torch.tensor([0.1, 0.2, 0.3])
    assert torch.allclose(ig.wrap(net, mean=mean.tolist()).scores(x), net(x - mean[:, None, None]), atol=1e-6)
    rows = torch.rand(2, 12)
    wrapped = ig.wrap(nn.Linear(12, 2).eval(), mean=[0.1] * 12, shape=(12,))
    assert wrapped.scores(rows).shape == (2, 2)


@pytest.mark.parametrize("kind", ["tuple", "dict", "named"])
def test_logits_are_found_in_what_networks_return(kind: str) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_cnn()

        def forward(self, x: Tensor) -> object:
            out = self.net(x)
            return {"tuple": (out, x), "dict": {"logits": out}, "named": {"logits": out, "hidden": x}}[kind]

    net = Wrapped().eval()
    assert torch.allclose(ig.wrap(net).scores(images(3)), net.net(images(3)), atol=1e-5)


def test_what_gives_no_logits_is_refused() -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"boxes": x}

    with pytest.raises(InputError, match="the network returns dict"):
        ig.wrap(Strange().eval()).scores(images(2))
    with pytest.raises(InputError, match=r"gives shape \(2, 1\)"):
        ig.wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).eval()).scores(images(2))


def test_the_ledger_charges_every_pass_to_its_sample() -> None:
    x = images(4)
    model, meter = ig.wrap(small_cnn().eval()).session(x)
    model.scores(x)
    model.scores(x[[1, 1, 3]], torch.tensor([1, 1, 3]))
    model.value_and_grad(x[[0]], lambda scores, rows: scores.sum(1), torch.tensor([0]))
    model.jacobian(x[[2]], torch.tensor([2]), torch.tensor([[0, 3]]))
    assert meter.queries.tolist() == [2, 3, 2, 2]
    assert (meter.cost.forward, meter.cost.backward) == (9, 3)
    with pytest.raises(ValueError, match="say which with rows="):
        model.scores(x[:2])


def test_a_part_of_a_session_is_charged_to_the_same_samples() -> None:
    x = images(5)
    model, meter = ig.wrap(small_cnn().eval()).session(x)
    part = model.take(torch.tensor([4, 2])).take(torch.tensor([1]))
    part.scores(x[[2]])
    assert meter.queries.tolist() == [0, 0, 1, 0, 0]
    assert torch.equal(part.draws(3).uniform((4,)), model.draws(3).uniform((4,))[[2]])


def test_a_loss_is_told_the_samples_rows_in_every_micro_batch() -> None:
    net, x, y = (
        small_cnn(dtype=torch.float64).eval(),
        images(7, dtype=torch.float64),
        torch.tensor([0, 1, 2, 3, 4, 0, 1]),
    )
    model = ig.wrap(net)
    model.probe(x)
    assert isinstance(model.backend, Torch)
    whole = model.session(x)[0].value_and_grad(x, Avoid(y).loss())
    model.backend._rows = 2
    rows = torch.tensor([6, 0, 3, 5, 1])
    part = model.session(x)[0].value_and_grad(x[rows], Avoid(y).loss(), rows)
    for name in ("value", "grad", "scores"):
        assert torch.allclose(getattr(part, name), getattr(whole, name)[rows]), name


def test_a_budget_stops_before_it_is_overdrawn() -> None:
    x = images(3)
    model, meter = ig.wrap(small_cnn().eval(), max_queries=2).session(x)
    model.scores(x)
    assert model.left().tolist() == [1, 1, 1]
    model.scores(x[[1]], torch.tensor([1]))
    with pytest.raises(BudgetExceeded, match="the budget of 2 queries"):
        model.scores(x)
    assert meter.queries.tolist() == [1, 2, 1]


def test_the_first_success_is_noted_with_its_query_and_its_input() -> None:
    x = images(2)
    weight = torch.zeros(2, 64)
    weight[1, 0] = 1
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False)).eval()
    with torch.no_grad():
        net[1].weight.copy_(weight)  # type: ignore[union-attr,operator]
    goal = Reach(torch.tensor([1, 1]))
    model, meter = ig.wrap(net).session(x, goal=goal)
    off, on = x.clone(), x.clone()
    off[:, 0, 0, 0], on[:, 0, 0, 0] = 0, 1
    model.scores(off)
    assert meter.first_success.tolist() == [-1, -1]
    model.scores(on[[1]], torch.tensor([1]))
    model.scores(on)
    assert meter.first_success.tolist() == [2, 2]
    assert torch.equal(meter.best, on)


def test_a_method_cannot_ask_for_more_than_it_declares() -> None:
    x = images(2)
    model = ig.wrap(small_cnn().eval()).session(x, allowed="scores")[0]
    model.scores(x)
    with pytest.raises(AccessError, match="declares scores and asks for gradient"):
        model.value_and_grad(x, lambda scores, rows: scores.sum(1))


def test_functions_give_scores_or_labels_in_tensors_or_arrays() -> None:
    x = images(3)
    assert ig.wrap(scores_without_autograd).scores(x).shape == (3, 5)
    only = ig.wrap(labels_without_autograd, classes=5)
    assert torch.equal(only.labels(x), scores_without_autograd_quietly(x))
    assert only.access == "labels"
    with pytest.raises(AccessError, match="labels"):
        only.session(x)[0].scores(x)
    with pytest.raises(InputError, match="does not tell its classes"):
        ig.wrap(labels_without_autograd).labels(x)
    weight = np.random.default_rng(0).normal(size=(64, 4))
    assert ig.wrap(lambda a: a.reshape(len(a), -1) @ weight, arrays="numpy").scores(x).shape == (3, 4)
    with pytest.raises(InputError, match="arrays='numpy'"):
        ig.wrap(lambda a: a.astype("float32")).scores(x)


def scores_without_autograd_quietly(x: Tensor) -> Tensor:
    with torch.no_grad():
        return labels_without_autograd(x)


@pytest.mark.parametrize("change", ["data", "optimizer", "state", "buffer"])
def test_a_network_that_changed_is_seen_anew(change: str) -> None:
    net, x = small_cnn().eval(), images(3)
    model = ig.wrap(net)
    before = model.scores(x)
    if change == "data":
        net.head.weight.data.mul_(2)
    elif change == "optimizer":
        net.head.weight.grad = torch.ones_like(net.head.weight)
        torch.optim.SGD([net.head.weight], lr=1.0).step()
    elif change == "state":
        net.load_state_dict(small_cnn(seed=5).state_dict())
    else:
        net.bn.running_mean.data.add_(1)  # type: ignore[union-attr]
    after = model.scores(x)
    assert not torch.allclose(before, after, atol=1e-3)
    with torch.no_grad():
        assert torch.allclose(after, net(x), atol=1e-4)


def test_layers_activations_and_cuts_agree_with_plain_pytorch() -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(3, dtype=torch.float64)
    model = session(net, x)
    assert list(model.layers().items())[:3] == [("conv", (6, 8, 8)), ("bn", (6, 8, 8)), ("act", (6, 8, 8))]
    assert torch.allclose(model.activations(x, ["bn"])["bn"], net.bn(net.conv(x))), "before the in-place ReLU"
    cut = model.at("bn", x, lambda scores, rows: scores[:, 2])
    leaf = net.bn(net.conv(x)).detach().requires_grad_()
    pooled = nn.functional.adaptive_avg_pool2d(leaf.relu(), 1).flatten(1)
    (expected,) = torch.autograd.grad(net.head(pooled)[:, 2].sum(), leaf)
    assert torch.allclose(cut.grad, expected)
    assert torch.allclose(cut.activation, leaf)
    with pytest.raises(InputError, match="no layer 'nope'"):
        model.activations(x, ["nope"])


def test_jacobian_is_autograds() -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(2, dtype=torch.float64)
    scores, jacobian = session(net, x).jacobian(x)
    for sample in range(2):
        expected = torch.autograd.functional.jacobian(lambda v: net(v)[0], x[sample : sample + 1])
        assert torch.allclose(jacobian[sample], expected[:, 0])
    assert torch.allclose(scores, net(x))


def test_drawing_layers_anew_leaves_the_network_and_the_global_generator_alone() -> None:
    net, x = small_cnn().eval(), images(3)
    state, kept = torch.get_rng_state(), copy.deepcopy(net.state_dict())
    model = session(net, x)
    assert list(model.parameter_layers()) == ["conv", "bn", "head"]
    twin, again = model.reinitialized(["head"], seed=1), model.reinitialized(["head"], seed=1)
    assert torch.equal(twin.scores(x), again.scores(x))
    assert not torch.allclose(twin.scores(x), model.scores(x))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())


def test_a_model_travels_to_another_process() -> None:
    model, x = ig.wrap(small_cnn().eval(), mean=0.5), images(3)
    scores = model.scores(x)
    assert torch.allclose(pickle.loads(pickle.dumps(model)).scores(x), scores)


def test_memory_errors_halve_the_micro_batch_and_change_nothing() -> None:
    class Hungry(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_cnn().eval()

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 3:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")
            return self.net(x)

    net, x = Hungry().eval(), images(10)
    model = ig.wrap(net)
    model.probe(x[:2])
    assert isinstance(model.backend, Torch)
    model.backend._rows = 8
    assert torch.allclose(model.scores(x), net.net(x), atol=1e-5)
    assert model.backend._rows == 2
