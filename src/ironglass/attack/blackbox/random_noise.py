"""Random noise: the control that every attack must beat."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops.balls import sample_ball


@attack(
    title="Random noise",
    paper="szegedy2014",
    access="labels",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="tries",
    lecture="black-box evasion: zero queries",
    tags=("control",),
)
def random_noise(model: Model, x: Tensor, goal: Goal, threat: Threat, *, tries: int = 1, seed: int = 0) -> Tensor:
    r"""Draw from the ball uniformly: :math:`x' \sim \mathcal{U}(B(x, \varepsilon) \cap \mathrm{box})`.

    With one try it asks the model nothing: a control, since a model that falls to noise needs no attack.

    Args:
        tries: draws a sample; each but the last is tested, and the first that reaches the goal is kept.
        seed: of the draws.

    Returns:
        Noisy samples ``(N, *shape)`` within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite.
    """
    draws = model.draws(seed)
    noisy = sample_ball(draws, x, threat, model.bounds)
    active = (model.left() > 0).nonzero()[:, 0]
    for _ in range(tries - 1):
        if not len(active):
            break
        missed = ~goal.reached_by(model.labels(noisy[active], active), active)
        active = active[missed]
        noisy[active] = sample_ball(draws, x[active], threat.take(active), model.bounds, active)
        active = active[model.left(active) > 0]
    return noisy
