"""What a detector of adversarial inputs is worth: against who does not know it, and against who goes through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ironglass.core.access import Detector
from ironglass.core.catalogue import LADDER
from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError
from ironglass.core.method import Method, get
from ironglass.core.results import AttackResult, Cost
from ironglass.core.statistics import wilson
from ironglass.core.values import Threat
from ironglass.models.adapter import Adapter, check, wrap
from ironglass.models.detector import FittedDetector
from ironglass.ops.ranking import auroc

COLUMNS = ("fooled", "flagged of fooled", "flagged of others", "area under ROC", "fooled and not flagged")
Cell = tuple[float, float, float, int]


def detection_report(
    detector: Detector,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    model: object = None,
    attacks: Sequence[str | Method[...]] = ("pgd",),
) -> Study:
    r"""How many adversarial inputs a detector flags, and how many legitimate ones; with attacks that go through it.

    Only samples count that the model labels right. *Fooled* is their share that an attack makes the model mislabel;
    flagged are counted among those, and apart among the attack's failures. The area under the receiver's operating
    curve is that of fooled against legitimate samples. An *adaptive* attack goes through model and detector and seeks
    what is mislabelled and not flagged; that last column is what the pair of them fails on.

    Args:
        detector: any object that scores and detects; the adaptive rows need one that the catalogue's methods fit.
        x: legitimate samples ``(N, *shape)`` that the detector has not been fitted on.
        y: labels ``(N,)``.
        threat: norm and radius.
        model: that is guarded; the detector's own where None.
        attacks: by name, or with options fixed.

    Returns:
        A row for the legitimate samples, whose flagged share is the false positive rate, and two an attack.

    Raises:
        InputError: if there is no model, or an attack is not one in the threat's norm.
    """
    given = getattr(detector, "model", None) if model is None else model
    if given is None:
        raise InputError("the detector does not say what it guards", "give model=")
    guarded: Adapter = wrap(given)  # type: ignore[arg-type]
    check(guarded, x, y, threat)
    kept = (guarded.labels(x) == y).nonzero()[:, 0]
    if not len(kept):
        raise InputError("the model labels no sample right", "check the order of the labels")
    clean, labels = x[kept], y[kept]
    base = detector.score(clean)
    flagged = base > detector.threshold
    none: Cell = (0.0, 0.0, 1.0, 0)
    rows: dict[str, list[Cell]] = {"legitimate": [none, none, _share(flagged), none, none]}
    cost = Cost()
    for each in attacks:
        method = get(each, "attack") if isinstance(each, str) else each
        if method.card.decorator != "attack" or threat.norm not in method.card.norms:
            raise InputError(f"{method.card.name} is no attack in {threat.norm}", "ironglass list attack")
        if LADDER.index(method.access) > LADDER.index(guarded.access):
            raise InputError(f"{method.card.name} needs {method.access}", f"the model gives {guarded.access}")
        found: dict[str, AttackResult] = {"naive": cast(Any, method)(guarded, clean, labels, threat)}
        if isinstance(detector, FittedDetector) and model is None:
            found["adaptive"] = cast(Any, method)(detector.guarded, clean, detector.goal(labels), threat)
        for kind, result in found.items():
            cost += result.cost
            score = detector.score(result.adversarial)
            fooled, seen = guarded.labels(result.adversarial) != labels, score > detector.threshold
            area = auroc(score[fooled], base)
            rows[f"{method.card.name}, {kind}"] = [
                _share(fooled),
                _share(seen[fooled]),
                _share(seen[~fooled]),
                (*area, int(fooled.sum())) if bool(fooled.any()) else none,
                _share(fooled & ~seen),
            ]
    table = torch.tensor([[cell[:3] for cell in row] for row in rows.values()], dtype=torch.float64)
    return Study(
        x=clean,
        method="detection_report",
        options={"attacks": [str(each) for each in attacks]},
        cost=cost,
        y=labels,
        row_names=tuple(rows),
        column_names=COLUMNS,
        values=table[..., 0],
        low=table[..., 1],
        high=table[..., 2],
        counts=torch.tensor([[cell[3] for cell in row] for row in rows.values()]),
        caption=f"What {detector!r} flags under {threat}, of {len(clean)} samples that the model labels right",
        row_head="samples",
        threat=threat,
        notes=("naive: the attack does not know of the detector. adaptive: it goes through model and detector",),
    )


def _share(which: Tensor) -> Cell:
    if not len(which):
        return 0.0, 0.0, 1.0, 0
    return float(which.double().mean()), *wilson(int(which.sum()), len(which)), len(which)
