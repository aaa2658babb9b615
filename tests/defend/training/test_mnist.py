"""What training reaches on MNIST: minutes each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from learners import seeded

Pair = tuple[Tensor, Tensor]


def mnist(shared_data: Path) -> tuple[Pair, Pair]:
    data = np.load(shared_data / "mnist.npz")
    train, test = (
        (torch.tensor(data[f"x_{part}"][:count]).float()[:, None] / 255, torch.tensor(data[f"y_{part}"][:count]).long())
        for part, count in (("train", 60000), ("test", 5000))
    )
    return train, test


def small_net() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
        )
    )  # fmt: skip


@pytest.mark.slow
def test_adversarial_training_holds_against_auto_attack(shared_data: Path) -> None:
    train, test = mnist(shared_data)
    threat = ig.Linf(0.1)
    result = ig.defend.adversarial_training(small_net(), train, threat, test, attack="n_fgsm", epochs=6)
    assert result.accuracy("clean")[1] >= 0.975
    x, y = test[0][:300], test[1][:300]
    whole, pgd = (
        attack(result.model, x, y, threat) for attack in (ig.attack.auto_attack, ig.attack.auto_pgd.with_(steps=40))
    )
    assert whole.success_rate <= 0.1 + 0.03, "90 %, within what 300 samples leave open"
    assert whole.success_rate - pgd.success_rate <= 0.03, "it was not fooled by the attack it was chosen by"


@pytest.mark.slow
def test_interval_training_proves_nine_of_ten(shared_data: Path) -> None:
    train, test = mnist(shared_data)
    result = ig.defend.interval_training(small_net(), train, ig.Linf(0.1), test, epochs=15)
    assert result.accuracy("certified")[1] >= 0.9
    assert result.accuracy("clean")[1] >= 0.96
