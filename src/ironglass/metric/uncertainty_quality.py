"""Is a model unsure where it is wrong, and of adversarial inputs?"""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError
from ironglass.core.uncertainty import Uncertainty
from ironglass.ops.calibration import reliability
from ironglass.ops.ranking import auroc

MEASURES = ("total", "aleatoric", "epistemic")
COLUMNS = ("tells wrong from right", "tells adversarial from clean")


def uncertainty_quality(clean: Uncertainty, y: Tensor, adversarial: Uncertainty | None = None, bins: int = 15) -> Study:
    r"""The area under the receiver's operating curve of each kind of uncertainty, for wrong answers and for attacks.

    Of maps, wrong and right are pixels, and adversarial and clean are samples, by their mean uncertainty.

    Args:
        clean: of samples as they are.
        y: their labels ``(N, …)``.
        adversarial: of adversarial inputs; None leaves that column empty.
        bins: of the calibration error that the notes tell, of the mean prediction.

    Returns:
        A row a kind of uncertainty. ``extras`` hold the bins of the reliability diagram.

    Raises:
        InputError: if the labels are of another shape than the answers.
    """
    labels = clean.labels()
    if y.shape != labels.shape:
        raise InputError(f"labels are {tuple(y.shape)}, answers {tuple(labels.shape)}", "give a label an answer")
    wrong = (labels != y).flatten()
    rows = []
    for measure in MEASURES:
        value = getattr(clean, measure).flatten()
        cells = [(*auroc(value[wrong], value[~wrong]), min(int(wrong.sum()), int((~wrong).sum())))]
        other = auroc(adversarial.of(measure), clean.of(measure)) if adversarial is not None else (torch.nan,) * 3
        cells.append((*other, len(adversarial) if adversarial is not None else 0))
        rows.append([cell if cell[3] else (0.0, 0.0, 1.0, 0) for cell in cells])
    table = torch.tensor([[cell[:3] for cell in row] for row in rows], dtype=torch.float64)
    found = reliability(clean.mean, y, bins)
    accuracy = float((~wrong).double().mean())
    return Study(
        x=clean.x,
        method="uncertainty_quality",
        options={"of": clean.method, "bins": bins},
        y=y,
        row_names=MEASURES,
        column_names=COLUMNS,
        values=table[..., 0],
        low=table[..., 1],
        high=table[..., 2],
        counts=torch.tensor([[cell[3] for cell in row] for row in rows]),
        caption=f"What the uncertainty of {clean.method} tells, area under the ROC curve",
        row_head="uncertainty",
        notes=(f"accuracy {accuracy:.1%}; expected calibration error {found.error:.1%} in {bins} bins",),
        extras={name: getattr(found, name) for name in found._fields[:3]},
    )
