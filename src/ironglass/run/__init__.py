"""The runner: the only loop over data. It checks, shards, meters, judges and caches; methods do none of it."""

from .radius import certified_radius
from .runner import Runner, run
from .study import run_study

__all__ = ["Runner", "certified_radius", "run", "run_study"]
