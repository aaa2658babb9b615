from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.access import Query
from ironglass.core.draws import Draws, keys
from ironglass.core.errors import InputError
from ironglass.core.values import Bounds
from ironglass.defend.input_randomization import patterns
from metric.broken import digits
from nets import images, labels_without_autograd, scores_without_autograd

THREAT = ig.Linf(0.15)


def transformed(x: Tensor, seed: int = 0, **options: object) -> Tensor:
    return ig.defend.input_randomization.raw(x, Query(Bounds(), Draws(keys(x), seed)), **options)


class Pooled(nn.Module):
    """Takes pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 16, 3, 1, 1), nn.Conv2d(16, 32, 3, 2, 1), nn.Linear(288, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.last(F.adaptive_avg_pool2d(x, 3).flatten(1))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    x, y = digits()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = Pooled()
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for step in range(400):
            rows = torch.randint(1400, (64,))
            batch = transformed(x[rows], step, smallest=0.8, largest=1.0) if step % 2 else x[rows]
            optimizer.zero_grad()
            F.cross_entropy(net(batch), y[rows]).backward()
            optimizer.step()
    return net.eval()


def held(count: int = 60) -> tuple[Tensor, Tensor]:
    x, y = digits()
    return x[1500 : 1500 + count], y[1500 : 1500 + count]


def test_the_paper_has_12528_patterns_and_all_of_them_come() -> None:
    assert patterns(299) == 12_528
    assert patterns(299, 310 / 299) == 3_794, "the authors' contest entry"
    x = torch.arange(1, 17, dtype=torch.float64).reshape(1, 1, 4, 4).expand(4000, 1, 4, 4)
    x = x + torch.arange(4000).reshape(-1, 1, 1, 1) * 1e-9  # another key a sample
    found = transformed(x, smallest=1.0, largest=1.75).round()
    assert found.shape == (4000, 1, 7, 7)
    assert len(found.unique(dim=0)) == patterns(4, 1.0, 1.75) == 4**2 + 3**2 + 2**2


def test_each_pattern_is_a_nearest_neighbour_resize_and_a_pad() -> None:
    x = images(40, dtype=torch.float64)
    found = transformed(x, smallest=0.7, largest=1.4, fill=0.5)
    for sample, seen in zip(x, found, strict=True):
        wanted = []
        for size in range(6, 11):
            rows = torch.tensor([i * 8 // size for i in range(size)])
            resized = sample[:, rows][:, :, rows]
            assert size != 8 or torch.equal(resized, F.interpolate(sample[None], size=size, mode="nearest")[0])
            for top, left in itertools.product(range(12 - size), repeat=2):
                wanted.append(F.pad(resized, (left, 11 - size - left, top, 11 - size - top), value=0.5))
        assert any(torch.equal(seen, each) for each in wanted)


def test_flips_mirror_half_of_the_draws() -> None:
    x = torch.zeros(2000, 1, 2, 2, dtype=torch.float64)
    x[:, 0, :, 0] = 0.5 + torch.arange(2000).reshape(-1, 1) * 1e-6
    found = transformed(x, smallest=1.0, largest=1.0, flips=True)
    turned = (found[:, 0, 0, 0] == 0).double().mean()
    assert 0.45 < float(turned) < 0.55
    assert torch.equal(transformed(x, smallest=1.0, largest=1.0), x)


def test_a_draw_is_a_samples_own_and_the_seed_repeats_it() -> None:
    x = images(9)
    order = torch.tensor([4, 0, 7])
    found = transformed(x, 3, largest=1.5)
    assert torch.equal(found[order], transformed(x[order], 3, largest=1.5))
    assert not torch.equal(found, transformed(x, 4, largest=1.5))


def test_the_gradient_through_resize_and_pad_is_that_of_finite_differences() -> None:
    x = images(3, dtype=torch.float64)
    weight = torch.randn(3, 1, 11, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value(point: Tensor) -> Tensor:  # the draws of x, whatever the point
        query = Query(Bounds(), Draws(keys(x), 0))
        seen = ig.defend.input_randomization.raw(point, query, smallest=0.8, largest=1.4, flips=True)
        return (seen.sin() * weight).sum()

    leaf = x.clone().requires_grad_()
    value(leaf).backward()
    flat = x.flatten()
    for index in range(0, len(flat), 7):
        step = torch.zeros_like(flat)
        step[index] = 1e-6
        ahead, behind = value((flat + step).view_as(x)), value((flat - step).view_as(x))
        assert float((ahead - behind) / 2e-6) == pytest.approx(float(leaf.grad.flatten()[index]), abs=1e-7)


def test_each_query_draws_anew_and_a_fixed_seed_is_deterministic(net: nn.Module) -> None:
    x, y = held(20)
    defended = ig.defend.input_randomization(net, smallest=0.8, largest=1.0)
    session, _ = defended.session(x)
    assert not torch.equal(session.scores(x), session.scores(x))
    again, _ = defended.session(x)
    session, _ = defended.session(x)
    assert torch.equal(session.scores(x), again.scores(x))
    assert torch.equal(defended.scores(x), defended.scores(x))
    first, second = (ig.attack.pgd(defended, x, y, THREAT, steps=3) for _ in range(2))
    assert torch.equal(first.adversarial, second.adversarial)
    other = ig.defend.input_randomization(net, smallest=0.8, largest=1.0, seed=1)
    assert not torch.equal(first.adversarial, ig.attack.pgd(other, x, y, THREAT, steps=3).adversarial)


def test_a_sample_does_not_depend_on_its_batch(net: nn.Module) -> None:
    net = Pooled().double().eval()
    x, y = held(9)
    x, order = x.double(), torch.tensor([7, 2, 5])
    defended = ig.defend.input_randomization(net, smallest=0.8, largest=1.0, samples=4)
    for attack in (ig.attack.pgd.with_(steps=4), ig.attack.square.with_(max_queries=20), ig.attack.deepfool):
        whole, part = attack(defended, x, y, THREAT), attack(defended, x[order], y[order], THREAT)
        assert torch.allclose(whole.adversarial[order], part.adversarial, atol=1e-9)
        assert torch.equal(whole.queries[order], part.queries)
        assert torch.equal(whole.share[order], part.share)


def test_robust_accuracy_falls_under_expectation_over_transformation(net: nn.Module) -> None:
    x, y = held()
    defended = ig.defend.input_randomization(net, smallest=0.8, largest=1.0, samples=20)
    clean = float((defended.labels(x) == y).double().mean())
    naive = ig.attack.pgd(net, x, y, THREAT, steps=10)
    grey_box = float((defended.labels(naive.adversarial) == y).double().mean())
    single = ig.attack.pgd(
        ig.defend.input_randomization(net, smallest=0.8, largest=1.0, samples=1), x, y, THREAT, steps=10
    )
    eot = ig.attack.pgd(defended, x, y, THREAT, steps=10)
    assert clean > 0.85
    assert 1 - eot.success_rate < min(grey_box, 1 - single.success_rate)
    assert 1 - eot.success_rate < 0.4 * clean
    assert eot.queries.min() >= 20, "every draw is charged"


def test_success_is_what_most_fresh_draws_say(net: nn.Module) -> None:
    x, y = held()
    defended = ig.defend.input_randomization(net, smallest=0.8, largest=1.0, samples=12)
    found = ig.attack.pgd(defended, x, y, THREAT, steps=10)
    assert torch.equal(found.success, found.share > 0.5)
    other = ig.defend.input_randomization(net, smallest=0.8, largest=1.0, seed=99)
    session, _ = other.session(x)
    votes = torch.stack([session.scores(found.adversarial).argmax(1) != y for _ in range(40)]).double().mean(0)
    sure = (votes - 0.5).abs() > 0.25
    assert torch.equal(found.success[sure], (votes > 0.5)[sure])
    assert float(votes[found.success].mean()) > 0.7, "no lucky draw"
    assert ig.attack.pgd(net, x, y, THREAT, steps=10).share is None


def test_several_passes_answer_by_their_mean_probability(net: nn.Module) -> None:
    x, y = held(12)
    ten = ig.defend.input_randomization(net, smallest=0.8, largest=1.0, passes=10)
    draws = Draws(keys(x), 0)
    runs = [
        net(ig.defend.input_randomization.raw(x, Query(Bounds(), draws), smallest=0.8, largest=1.0)).softmax(1)
        for _ in range(10)
    ]
    assert torch.allclose(ten.scores(x).exp(), torch.stack(runs).mean(0).detach(), atol=1e-5)
    assert ten.samples == 3
    assert ig.attack.fgsm(ten, x, y, THREAT).cost.backward == 3 * 12


def test_a_budget_holds_and_black_boxes_confirm(net: nn.Module) -> None:
    x, y = held(12)
    defended = ig.defend.input_randomization(net, smallest=0.8, largest=1.0, samples=5)
    for attack in (ig.attack.pgd, ig.attack.square):
        found = ig.Runner(defended, max_queries=40)(attack, x, y, THREAT)
        assert int(found.queries.max()) <= 40
    scores = ig.defend.input_randomization(scores_without_autograd, smallest=0.9, largest=1.0, samples=5)
    pictures, labels = images(6), torch.arange(6) % 5
    assert ig.attack.square(scores, pictures, labels, THREAT, max_queries=30).share is not None
    hard = ig.wrap(labels_without_autograd, classes=5)
    found = ig.attack.random_noise(
        ig.defend.input_randomization(hard, smallest=0.9, largest=1.0), pictures, labels, THREAT
    )
    assert torch.allclose(found.after.sum(1), torch.ones(6))
    first = found.first_success[found.first_success >= 0]
    assert bool((first >= 30).all()), "a label that reaches the goal is confirmed by 30 draws before it counts"


def test_the_battery_sees_that_it_is_random(net: nn.Module) -> None:
    x, y = held(12)
    defended = ig.defend.input_randomization(net, smallest=0.8, largest=1.0, samples=4)
    assert "random" in ig.metric.masking_alarms(defended, x, y, THREAT, steps=4, restarts=1, queries=20).alarms


def test_wrong_requests_are_refused(net: nn.Module) -> None:
    with pytest.raises(InputError, match="0 < smallest"):
        ig.defend.input_randomization(net, smallest=1.2, largest=1.0).scores(images(2))
    with pytest.raises(InputError, match="give at least 1"):
        ig.defend.input_randomization(net, samples=0)
    with pytest.raises(InputError, match="pictures"):
        ig.defend.input_randomization(nn.Linear(3, 2).eval()).scores(torch.rand(2, 3))


def test_what_is_made_of_a_random_model_draws_too(net: nn.Module) -> None:
    x, y = held(10)
    defended = ig.defend.input_randomization(net, smallest=0.8, largest=1.0, samples=4)
    detector = ig.defend.squeezing_detector(defended, held(60)[0], squeezers=("bits 3",))
    behind = ig.defend.feature_squeezing(defended, bits=4)
    for model in (ig.ensemble([defended, net]), detector.guarded, behind):
        assert model.stochastic
        session, _ = model.session(x)
        assert not torch.equal(session.scores(x), session.scores(x))
        goal = detector.goal(y) if model.classes == 11 else ig.Avoid(y)
        found, again = (ig.attack.pgd(model, x, goal, THREAT, steps=2) for _ in range(2))
        assert found.share is not None
        assert torch.equal(found.adversarial, again.adversarial)
        assert int(found.queries.min()) >= 4
