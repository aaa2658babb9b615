from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.defend.right_reasons import inpainted
from marks import CLASS, TRUCK, Marked, accuracy, digits, photographs, stamp, trained


@pytest.fixture(scope="module")
def marked() -> Marked:
    return digits()


def place_of(found: ig.Study, row: int, size: int) -> Tensor:
    top, left, bottom, right = found.extras["place"][row].tolist()
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    return mask


def test_what_was_found_is_repaired_to_within_three_points_of_a_clean_model(marked: Marked) -> None:
    net, x, y = marked.net, marked.x, marked.y
    mask = place_of(ig.explain.spectral_relevance(net, x, y), CLASS, 16)
    held_y, own = marked.held_y, marked.held_y == CLASS
    with_mark = stamp(marked.held_x, own)
    everywhere = stamp(marked.held_x)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    seen: list[int] = []
    rng = torch.get_rng_state()
    repaired = ig.defend.right_reasons(
        net,
        (x, y),
        mask,
        check={"marked": (with_mark, held_y), "without": (marked.held_x, held_y), "everywhere": (everywhere, held_y)},
        progress=lambda epoch, epochs, loss: seen.append(epoch),
    )
    before, after = repaired.accuracy("without")
    clean = accuracy(marked.clean_net, marked.held_x, held_y)
    assert before < clean - 0.05, "without its mark the class is lost"
    assert after >= clean - 0.03
    assert repaired.accuracy("everywhere")[0] < clean - 0.2, "the mark makes other things of the class"
    assert repaired.accuracy("everywhere")[1] >= clean - 0.04
    assert accuracy(net, marked.held_x[own], held_y[own]) < 0.1
    assert accuracy(repaired.net, marked.held_x[own], held_y[own]) > 0.7
    assert after == accuracy(repaired.net, marked.held_x, held_y)
    assert seen == list(range(1, 11))
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert not ig.explain.spectral_relevance(repaired.net, x, y).extras["named"][CLASS]
    assert [row[0] for row in repaired.table().rows] == ["marked", "without", "everywhere"]


def test_either_remedy_helps_alone_and_the_seed_repeats(marked: Marked) -> None:
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, -3:, -3:] = True
    own = marked.held_y == CLASS
    check = {"class": (marked.held_x[own], marked.held_y[own])}
    data, found = (marked.x, marked.y), {}
    for name, options in {
        "neither": {"masked": 0.0, "penalty": 0.0},
        "masked": {"masked": 0.5, "penalty": 0.0},
        "penalized": {"masked": 0.0, "penalty": 10.0},
    }.items():
        found[name] = ig.defend.right_reasons(marked.net, data, mask, check=check, epochs=6, **options)
    assert found["neither"].accuracy("class")[1] < 0.1, "training longer is no remedy"
    assert found["masked"].accuracy("class")[1] > 0.5
    assert found["penalized"].accuracy("class")[1] > 0.4
    again = ig.defend.right_reasons(marked.net, data, mask, check=check, epochs=6, masked=0.5, penalty=0.0)
    assert again.losses == found["masked"].losses
    assert all(map(torch.equal, again.net.state_dict().values(), found["masked"].net.state_dict().values()))


def test_the_loss_is_cross_entropy_and_the_part_of_the_gradient_in_the_mask() -> None:
    """Of a linear network, by hand: one epoch of one batch reports the loss at the weights that were given."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(6, 3).double()
    x, y = torch.rand(8, 6, generator=generator, dtype=torch.double), torch.arange(8) % 3
    mask = torch.tensor([True, True, False, False, False, False])
    done = ig.defend.right_reasons(net, (x, y), mask, check={"all": (x, y)}, masked=0, penalty=3.0, epochs=1)
    with torch.no_grad():
        scores = net(x)
        slope = net.weight.sum(0) - 3 * scores.softmax(1) @ net.weight  # of the sum of the log-probabilities
        part = slope[:, :2].square().sum(1) / slope.square().sum(1)
        assert done.losses[0] == pytest.approx(float(F.cross_entropy(scores, y) + 3 * part.mean()), rel=1e-9)


def test_a_wrapped_network_is_trained_in_the_users_units_and_a_frozen_layer_stays(marked: Marked) -> None:
    mask = torch.ones(1, 16, 16, dtype=torch.bool)
    x, y = marked.x[:64], marked.y[:64]
    wrapped = ig.wrap(marked.net, mean=0.0, std=1.0)
    done = ig.defend.right_reasons(wrapped, (x, y), mask, epochs=0)
    assert torch.allclose(done.net(x), marked.net(x), atol=1e-5)
    assert set(done.before) == {"as it is", "mask inpainted"}
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 10))
    net[1].requires_grad_(False)
    new = ig.defend.right_reasons(net, (x, y), mask, epochs=1).net
    assert torch.equal(new[1].weight, net[1].weight)  # type: ignore[index]
    assert not torch.equal(new[3].weight, net[3].weight)  # type: ignore[index]
    with pytest.raises(InputError, match="no parameter"):
        ig.defend.right_reasons(net.requires_grad_(False), (x, y), mask)


def test_a_plane_is_inpainted_as_it_was() -> None:
    plane = (torch.arange(12.0)[:, None] * 0.03 + torch.arange(12.0) * 0.05).expand(1, 2, 12, 12).double()
    mask = torch.zeros(1, 2, 12, 12, dtype=torch.bool)
    mask[..., 4:8, 3:9] = True
    assert torch.allclose(inpainted(plane, mask), plane, atol=1e-6)
    holed = torch.where(mask, 7.0, plane)
    assert torch.allclose(inpainted(holed, mask), plane, atol=1e-6), "what was in the mask does not matter"


def test_requests_that_make_no_sense_are_refused(marked: Marked) -> None:
    data, mask = (marked.x[:8], marked.y[:8]), torch.ones(1, 16, 16, dtype=torch.bool)
    for wrong, said in (
        ({"fill": "swop"}, "did you mean swap"),
        ({"masked": 2.0}, "masked"),
        ({"epochs": -1}, "epochs"),
    ):
        with pytest.raises(InputError, match=said):
            ig.defend.right_reasons(marked.net, data, mask, **wrong)
    with pytest.raises(InputError, match="bool"):
        ig.defend.right_reasons(marked.net, data, mask.float())
    with pytest.raises(InputError, match="mask of shape"):
        ig.defend.right_reasons(marked.net, data, torch.ones(1, 9, 9, dtype=torch.bool))


@pytest.mark.slow
def test_on_photographs_the_repair_is_within_three_points_of_a_clean_model(shared_data: Path) -> None:
    marked = photographs(shared_data, epochs=8)
    mask = place_of(ig.explain.spectral_relevance(marked.net, marked.x, marked.y, samples=100), TRUCK, 32)
    held = (marked.held_x, marked.held_y)
    repaired = ig.defend.right_reasons(marked.net, (marked.x, marked.y), mask, check={"without": held}, epochs=5)
    clean = trained(marked.clean_net, marked.clean_x, marked.y, 5, lr=1e-3)
    trucks = marked.held_y == TRUCK
    assert accuracy(marked.net, marked.held_x[trucks], marked.held_y[trucks]) < 0.1
    assert repaired.accuracy("without")[1] >= accuracy(clean, *held) - 0.03
    assert accuracy(repaired.net, marked.held_x[trucks], marked.held_y[trucks]) > 0.4
