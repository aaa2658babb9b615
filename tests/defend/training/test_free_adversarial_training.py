from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.errors import InputError
from learners import blobs, course, seeded


def test_it_is_the_algorithm_written_out() -> None:
    data, eps, replays, batch = blobs(27), 0.4, 3, 10
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double())
    slow = copy.deepcopy(net)
    ready = course(
        ig.defend.free_adversarial_training, net, data, ig.Linf(eps), (-4, 4),
        replays=replays, epochs=8, batch=batch, lr=0.02, ramp=0.5, seed=4,
    )  # fmt: skip
    assert ready.loop.epochs == 3, "the rounds that make 8 epochs of 3 replays, rounded up"
    for _ in range(3):
        ready.loop.epoch()

    x, y = data[0][ready.rows], data[1][ready.rows]
    generator = torch.Generator().manual_seed(4)
    adam = torch.optim.Adam(slow.parameters(), 0.02)
    delta = torch.zeros(batch, 6, dtype=torch.float64)
    steps, done = 3 * math.ceil(len(x) / batch) * replays, 0
    for _ in range(3):
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            for _ in range(replays):
                size = eps * min(done / steps / 0.5, 1)
                for group in adam.param_groups:
                    group["lr"] = 0.02 * (1 + math.cos(math.pi * done / steps)) / 2
                change = delta[: len(rows)].clone().requires_grad_()
                loss = F.cross_entropy(slow((x[rows] + change).clamp(-4, 4)), y[rows])
                adam.zero_grad()
                loss.backward()
                adam.step()
                done += 1
                # the next step's radius is the next batch's
                size = eps * min(done / steps / 0.5, 1)
                delta[: len(rows)] = (delta[: len(rows)] + size * change.grad.sign()).clamp(-size, size)
    for mine, theirs in zip(ready.student.whole.net.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_change_stays_in_the_ball(norm: str) -> None:
    data = blobs(30)
    net = seeded(lambda: nn.Linear(6, 2).double())
    threat = ig.Threat(norm, 0.4)  # type: ignore[arg-type]
    ready = course(ig.defend.free_adversarial_training, net, data, threat, (-4, 4), ramp=0.0, epochs=16, batch=10)
    for _ in range(2):
        ready.loop.epoch()
    size = torch.linalg.vector_norm(ready.student.memory["change"], {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
    assert 0.3 < float(size.max()) <= 0.4 * (1 + 1e-9)
    with pytest.raises(InputError, match="replays=0"):
        ig.defend.free_adversarial_training.raw(threat, replays=0)
