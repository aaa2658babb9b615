"""The runner: the only loop over data. It checks, shards, meters, judges and caches; methods do none of it."""

from .radius import certified_radius
from .runner import Runner, run
from .study import run_experiment, run_study
from .training import run_training

__all__ = ["Runner", "certified_radius", "run", "run_experiment", "run_study", "run_training"]
