from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import AccessError, BudgetExceeded, InputError, MethodFailed
from ironglass.core.statistics import wilson
from ironglass.core.training import Batch, Epoch
from ironglass.models import weights
from ironglass.ops.training import inner
from ironglass.run.training import Course
from learners import blobs, seeded
from nets import images, scores_without_autograd, small_cnn

SCRIPT = """
import sys
import torch
import ironglass as ig
sys.path.insert(0, sys.argv[2])
from nets import images, small_cnn

x = images(80)
y = (x.flatten(1).sum(1) * 7).long() % 5
result = ig.defend.adversarial_training(
    small_cnn(), (x, y), ig.Linf(0.1), (x, y), sys.argv[1], attack="n_fgsm", epochs=4, batch=8,
    progress=lambda done, total, epoch: print(done, flush=True),
)
result.save(sys.argv[3])
"""


def run(folder: Path, name: str) -> subprocess.Popen[str]:
    here = Path(__file__).resolve().parents[1]
    files = (folder / f"{name}.checkpoint", here, folder / f"{name}.safetensors")
    words = [sys.executable, "-c", SCRIPT, *map(str, files)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_a_killed_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    with run(tmp_path, "whole") as whole, run(tmp_path, "cut") as cut:
        assert whole.stdout is not None
        assert cut.stdout is not None
        for line in cut.stdout:
            if line.strip() == "2":
                cut.send_signal(signal.SIGKILL)  # somewhere in the third epoch
                break
        assert cut.wait() == -signal.SIGKILL
        assert whole.stdout.read().split() == ["1", "2", "3", "4"]
    assert not (tmp_path / "cut.safetensors").exists()
    with run(tmp_path, "cut") as again:
        assert again.stdout is not None
        assert again.stdout.read().split() == ["3", "4"], "it went on, and did not begin anew"
    first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "cut"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not list(tmp_path.glob("*.part"))


def linear() -> nn.Module:
    return seeded(lambda: nn.Linear(6, 2).double())


def model() -> ig.Adapter:
    return ig.wrap(linear().eval(), bounds=(-5, 5))


def train(*args: Any, **more: Any) -> ig.Trained:
    options = {"attack": "n_fgsm", "epochs": 4, "batch": 16, "lr": 0.05}
    return ig.defend.adversarial_training(model(), blobs(80), ig.Linf(0.2), *args, **options | more)


def test_an_interruption_keeps_the_best_so_far() -> None:
    for stop in (KeyboardInterrupt, BudgetExceeded("spent")):

        def tick(done: int, total: int, epoch: Epoch, stop: Any = stop) -> None:
            if done == 2:
                raise stop

        result = train(progress=tick)
        assert result.partial
        assert len(result.history) == 3
        best = max(result.history, key=lambda epoch: (epoch.counts["attacked"], epoch.counts["clean"]))
        assert result.after == best.counts

    def broken(done: int, total: int, epoch: Epoch) -> None:
        raise RuntimeError("out of order")

    with pytest.raises(MethodFailed, match="out of order"):
        train(progress=broken)


def test_the_best_epoch_is_kept_and_told_with_intervals_and_the_record_is_saved(tmp_path: Path) -> None:
    check = blobs(200)
    result = train(check)
    found = ig.attack.auto_pgd(result.model, *check, ig.Linf(0.2), steps=40)
    assert result.after["attacked"] == (int((~found.success).sum()), 200)
    assert result.after["clean"] == (int((result.net(check[0]).argmax(1) == check[1]).sum()), 200)
    assert result.before != result.after
    worth = [(epoch.counts["attacked"][0], epoch.counts["clean"][0]) for epoch in result.history]
    assert result.best == worth.index(max(worth))
    rows = result.table().rows
    assert [row[0] for row in rows] == ["clean", "under Auto-PGD, linf ≤ 0.2"]
    low, high = wilson(*result.after["clean"])
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in rows[0][2]
    assert [line.role for line in result.curve().series] == ["clean", "attack"]
    assert result.plot().axes[0].get_xlabel() == "epoch"
    assert result.cost.forward == 72 * 2 * 4, "N-FGSM takes one gradient beside the one to the weights"
    result.save(tmp_path / "net.safetensors")
    other = linear()
    weights.load(other, tmp_path / "net.safetensors")
    assert torch.equal(other.weight, result.net.weight)
    with safe_open(str(tmp_path / "net.safetensors"), "pt") as file:
        record = json.loads(file.metadata()["ironglass"])
    assert record["options"]["attack"] == "n_fgsm"
    assert record["after"]["clean"] == list(result.after["clean"])
    assert len(record["history"]) == 5


def test_a_checkpoint_knows_whose_it_is(tmp_path: Path) -> None:
    place = tmp_path / "one.safetensors"
    first = train(checkpoint=place)
    assert train(checkpoint=place).history == first.history, "what is finished is not done again"
    train(checkpoint=tmp_path)
    assert (tmp_path / "adversarial_training.safetensors").exists(), "in a folder it has the method's name"
    for other in ({"epochs": 5}, {"attack": ig.attack.pgd.with_(steps=3)}, {"seed": 1}):
        with pytest.raises(InputError, match="of another training"):
            train(checkpoint=place, **other)
    with pytest.raises(InputError, match="of another training"):
        ig.defend.adversarial_training(
            model(), blobs(82), ig.Linf(0.2), checkpoint=place, attack="n_fgsm", epochs=4, batch=16, lr=0.05
        )
    with pytest.raises(InputError, match="does not exist"):
        train(checkpoint=tmp_path / "no" / "one.safetensors")
    first.save(tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="holds no checkpoint"):
        train(checkpoint=tmp_path / "net.safetensors")


def test_a_mask_a_sample_goes_with_its_sample() -> None:
    x, y = blobs(40)
    x = x.clone()
    x[:, 0] = torch.arange(40) / 40  # tells which sample it is
    mask = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[:, 0] = False
    recipe = ig.defend.adversarial_training.raw(ig.Linf(0.2, mask), attack="fgsm", epochs=2, batch=7, ramp=0.5)
    course = Course(recipe, probed(model(), x), (x, y), ig.Linf(0.2, mask))
    seen: list[float] = []

    def watched(student: Any, batch: Batch) -> Tensor:
        changed = inner.fgsm(student, batch)
        which = (batch.x[:, 0] * 40).round().long()
        moved = changed != batch.x
        assert torch.equal(moved & mask[which], moved), "nothing moves outside its own mask"
        assert torch.equal(batch.y, y[which])
        assert batch.allowed().eps == pytest.approx(0.2 * batch.grown)
        seen.extend(which.tolist())
        return recipe.loss(student, batch)

    course.recipe = replace(recipe, loss=watched)
    for _ in range(2):
        course.loop.epoch()
    assert sorted(seen) == sorted(2 * course.rows.tolist())
    assert not set(seen) & set(course.held.tolist())


def probed(given: ig.Adapter, x: Tensor) -> ig.Adapter:
    given.probe(x)
    return given


def test_requests_that_make_no_sense_are_refused() -> None:
    data = (images(10), torch.arange(10) % 5)
    plain = ig.defend.standard_training
    with pytest.raises(AccessError, match="needs training"):
        plain(scores_without_autograd, data)
    with pytest.raises(AccessError, match="needs training"):
        plain(ig.wrap(small_cnn().eval(), access="gradient"), data)
    for wrong, said in (
        (data[0], "a pair of tensors"),
        ((data[0], data[1][:4]), "4 labels for 10 samples"),
        ((data[0] * 3, data[1]), "bounds are"),
        ((data[0][:1], data[1][:1]), "one sample"),
        ((data[0], data[1] + 3), "out of range"),
    ):
        with pytest.raises(InputError, match=said):
            plain(small_cnn(), wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 labels for 10 samples"):
        plain(small_cnn(), data, None, (data[0], data[1][:2]))


def test_a_threat_is_only_measured_by_a_training_that_knows_none() -> None:
    data = (images(40), torch.arange(40) % 5)
    bare = ig.defend.standard_training(small_cnn(), data, epochs=1, batch=8)
    told = ig.defend.standard_training(small_cnn(), data, ig.Linf(0.05), epochs=1, batch=8)
    assert set(bare.after) == {"clean"}
    assert set(told.after) == {"clean", "attacked"}
    assert all(torch.equal(a, b) for a, b in zip(bare.net.parameters(), told.net.parameters(), strict=True))
