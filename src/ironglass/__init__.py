"""See through a model and try to break it.

>>> import ironglass as ig
>>> sorted(card.name for card in ig.catalogue().values() if card.family == "metric")[:1]
['completeness']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .core.catalogue import Card, catalogue

if TYPE_CHECKING:
    from . import attack, bench, certify, defend, explain, metric
    from .audit import audit
    from .core.diagnosis import Diagnosis, Study
    from .core.results import (
        AttackResult,
        Attribution,
        Certificate,
        CertifiedRadius,
        Cost,
        Estimate,
        Score,
        Smoothed,
        load,
    )
    from .core.sandwich import Sandwich
    from .core.training import Trained
    from .core.uncertainty import Uncertainty
    from .core.values import L0, L1, L2, Avoid, Bounds, Evade, Goal, Linf, Reach, Threat, Wasserstein
    from .models.adapter import Adapter, wrap
    from .models.joint import ensemble
    from .run import Runner

__all__ = [
    "L0",
    "L1",
    "L2",
    "Adapter",
    "AttackResult",
    "Attribution",
    "Avoid",
    "Bounds",
    "Card",
    "Certificate",
    "CertifiedRadius",
    "Cost",
    "Diagnosis",
    "Estimate",
    "Evade",
    "Goal",
    "Linf",
    "Reach",
    "Runner",
    "Sandwich",
    "Score",
    "Smoothed",
    "Study",
    "Threat",
    "Trained",
    "Uncertainty",
    "Wasserstein",
    "__version__",
    "attack",
    "audit",
    "bench",
    "catalogue",
    "certify",
    "defend",
    "ensemble",
    "explain",
    "load",
    "metric",
    "wrap",
]

_HOMES = {
    "Runner": "run",
    "Trained": "core.training",
    "ensemble": "models.joint",
    "wrap": "models.adapter",
    "Adapter": "models.adapter",
    "Sandwich": "core.sandwich",
    **dict.fromkeys(("Diagnosis", "Study"), "core.diagnosis"),
    "Uncertainty": "core.uncertainty",
    **dict.fromkeys(
        (
            "AttackResult",
            "Attribution",
            "Certificate",
            "CertifiedRadius",
            "Cost",
            "Estimate",
            "Score",
            "Smoothed",
            "load",
        ),
        "core.results",
    ),
    **dict.fromkeys(("attack", "audit", "bench", "explain", "certify", "defend", "metric"), ""),
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: ``import ironglass`` alone does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module 'ironglass' has no attribute '{name}'")
    home = _HOMES.get(name, "core.values")
    if not home:
        return importlib.import_module(f".{name}", __name__)
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
