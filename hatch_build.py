"""Build hook: the wheel carries type stubs of the families, made from the catalogue."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Stubs(BuildHookInterface):  # type: ignore[type-arg]
    """Writes ``__init__.pyi`` beside each family's ``__init__.py`` before the files are gathered."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before each build."""
        core = Path(self.root) / "src" / "ironglass" / "core"
        spec = importlib.util.spec_from_file_location(
            "_core", core / "__init__.py", submodule_search_locations=[str(core)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules["_core"] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
        stubs = importlib.import_module("_core.stubs")
        paths = stubs.write(Path(self.root) / "src" / "ironglass")
        build_data["artifacts"] += [str(path.relative_to(self.root)) for path in paths]
