from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ironglass.core.errors import InputError, MissingExtra
from ironglass.models.sources import load_model

transformers = pytest.importorskip("transformers", reason="needs the hf extra")
LABELS = {0: "cat", 1: "dog", 2: "owl"}


def save(folder: Path, net: Any, **changes: Any) -> Path:
    net.save_pretrained(folder)
    config = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 16, "width": 16},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config | changes))
    return folder


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        id2label=LABELS,
    )
    return transformers.ViTForImageClassification(config).eval()


def resnet() -> Any:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", id2label=LABELS
    )  # fmt: skip
    return transformers.ResNetForImageClassification(config).eval()


@pytest.mark.parametrize("build", [vit, resnet])
def test_logits_equal_the_network_behind_its_own_processor(tmp_path: Path, build: Any) -> None:
    net = build()
    model = load_model(f"hf:{save(tmp_path, net)}")
    pictures = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True)
    with torch.no_grad():
        expected = net(torch.from_numpy(np.stack(processor(list(pictures))["pixel_values"]))).logits
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(model.scores(x), expected, rtol=1e-4, atol=1e-5)
    assert model.names == ("cat", "dog", "owl")
    assert model.shape == (3, 16, 16)


def test_networks_that_take_bytes_are_fed_bytes(tmp_path: Path) -> None:
    net = vit()
    model = load_model(f"hf:{save(tmp_path, net, do_rescale=False, do_normalize=False)}")
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.scores(x), net(255 * x).logits, rtol=1e-3, atol=1e-4)


def test_your_bounds_and_names_take_precedence(tmp_path: Path) -> None:
    save(tmp_path, vit())
    x = torch.rand(2, 3, 16, 16)
    wide = load_model(f"hf:{tmp_path}", bounds=(-1, 3), labels=("a", "b", "c"))
    torch.testing.assert_close(wide.scores(4 * x - 1), load_model(f"hf:{tmp_path}").scores(x), rtol=1e-4, atol=1e-5)
    assert wide.names == ("a", "b", "c")


def test_a_folder_that_is_not_whole_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json in .*nowhere"):
        load_model(f"hf:{tmp_path / 'nowhere'}")
    save(tmp_path, vit())
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:200])
    with pytest.raises(InputError, match="cannot load an image classifier"):
        load_model(f"hf:{tmp_path}")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot load an image classifier"):
        load_model(f"hf:{tmp_path}")


def test_weights_without_a_classifier_are_an_error(tmp_path: Path) -> None:
    save(tmp_path, vit().vit)
    with pytest.raises(InputError, match="lack 2 tensors of the classifier"):
        load_model(f"hf:{tmp_path}")


def test_a_processor_that_does_more_than_normalize_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, vit())

    class Swapped:
        def __call__(self, picture: Any, return_tensors: str) -> Any:
            return {"pixel_values": np.asarray(picture, dtype=np.float64)[None].transpose(0, 3, 1, 2)[:, ::-1]}

    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", lambda *_args, **_options: Swapped())
    with pytest.raises(InputError, match="does more than resize and normalize RGB"):
        load_model(f"hf:{tmp_path}")


def test_loading_leaves_the_librarys_voice_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    save(tmp_path, vit())
    capfd.readouterr()
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(f"hf:{tmp_path}")
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"ironglass\[hf\]"):
        load_model("hf:folder")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"ironglass\[timm\]"):
        load_model("timm:resnet18")


def test_timm_networks_bring_their_normalization(tmp_path: Path) -> None:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm needs torchvision, which has no CPU build here: {error}")
    net = timm.create_model("test_vit.r160_in1k", pretrained=False).eval()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    model = load_model("timm:test_vit.r160_in1k", weights=tmp_path / "weights.pth")
    x = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(model.scores(x), net((x - 0.5) / 0.5), rtol=1e-4, atol=1e-4)
    assert model.names[967] == "espresso"
    with pytest.raises(InputError, match="timm has no network"):
        load_model("timm:resnet81")
