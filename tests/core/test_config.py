from __future__ import annotations

from pathlib import Path

import pytest

from ironglass.core.config import Config, read_config
from ironglass.core.errors import InputError


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "ironglass.toml"
    path.write_text("[audit]\neps = 0.1\nseed = 3\n[audit.options.pgd]\nsteps = 5\n")
    config = read_config(path, {"seed": 4, "norm": None})
    assert (config.eps, config.seed, config.norm, config.options) == (0.1, 4, "linf", {"pgd": {"steps": 5}})
    assert read_config(None, {}) == Config()


def test_a_fraction_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "ironglass.toml"
    path.write_text('[audit]\neps = "8/255"\n')
    assert read_config(path, {}).eps == 8 / 255


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[audit]\nepz = 1", "epz"),
        ('[audit]\neps = "big"', r"Expected `float \| null`, got `str` - at `\$.eps`"),
        ("[audit", "is not TOML"),
        ("[audit]\neps = -1.0", "eps is -1.0"),
        ('[audit]\nnorm = "l7"', "l7"),
    ],
)  # fmt: skip
def test_mistakes_say_where(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "ironglass.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_config(path, {})
