"""The audit: which methods fit this model, what they find, and what it means.

The package is itself the function: ``ironglass.audit(model, data)``.
"""

import sys
from types import ModuleType
from typing import Any

from ironglass.core.findings import Report

from .planning import Plan, Step
from .whole import Interrupted, audit, plan

__all__ = ["Interrupted", "Plan", "Step", "audit", "plan"]


class _Audit(ModuleType):
    """``ironglass.audit`` names the package and the function alike."""

    def __call__(self, *args: Any, **options: Any) -> Report:
        return audit(*args, **options)


sys.modules[__name__].__class__ = _Audit
