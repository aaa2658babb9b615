"""What the battery against gradient masking asks, what each alarm means, and what to do then."""

from __future__ import annotations

from ironglass.core.diagnosis import Check

EOT = "attack the average over fresh draws (expectation over transformation), and judge success by a majority of them"
BPDA = "put a smooth stand-in where the gradient vanishes (BPDA), or attack with scores alone"
STRONGER = "report the stronger attack: what it breaks is broken"


def _attack(name: str, alarm: str, remedy: str, most: float = 0.02) -> Check:
    """Returns a check that sets attacks against each other."""
    return Check(name, alarm, remedy, most, least=2)


CHECKS = (
    Check("random", "The same input gets different scores: part of the model is random", EOT, cause=True),
    Check(
        "batch",
        "A sample's scores depend on the other samples of its batch: batch statistics are in use",
        "run normalization layers on their stored statistics (eval mode), and evaluate again",
        cause=True,
    ),
    Check(
        "probabilities",
        "The outputs are probabilities, so losses on them are flat where the model is sure",
        "attack the logits: drop the softmax, or return its logarithm",
        most=0.1,
        cause=True,
    ),
    Check(
        "gradient_at_inference",
        "The model computes gradients while it predicts: it changes with its input",
        "attack through the whole prediction, its inner gradient included, or with scores alone",
        cause=True,
    ),
    Check(
        "zero_gradient",
        "The gradient of the margin is zero, not finite or cannot be computed",
        BPDA,
        most=0.01,
        cause=True,
    ),
    Check(
        "saturated",
        "The gradient of the usual cross-entropy underflows to zero, the margin's does not: the logits are too large",
        "divide the logits by a constant, or attack the margin: neither changes a decision",
        most=0.01,
        cause=True,
    ),
    Check(
        "steps",
        "The scores stay exactly the same under a tiny change: the input or a layer is rounded",
        BPDA,
        most=0.05,
        cause=True,
    ),
    Check(
        "jumps",
        "The scores jump along a short straight path: the model is not continuous, its gradient says little",
        "average gradients over a neighbourhood, replace the part that jumps by a smooth one, or use scores alone",
        most=0.1,
        least=2,
        cause=True,
    ),
    Check(
        "unstable",
        "Noise of one level in 255 changes the margin by more than a tenth",
        "average the gradient over the neighbourhood, and use more restarts",
        most=0.5,
        least=2,
    ),
    _attack(
        "single_step", "One step breaks samples that many steps do not", "mend the attack: many steps must not lose"
    ),
    _attack(
        "eps_curve",
        "A smaller radius breaks samples that the full one does not",
        "mend the attack: more room must not help the defence",
    ),
    _attack(
        "unbounded",
        "Samples survive the attack though every value may change at will",
        "no classifier withstands that: the attack fails, not the adversary",
    ),
    _attack("more_steps", "Twice the steps break more samples", "attack with more steps until nothing changes"),
    _attack("incomplete", "The attack's loss still rises when it ends", "attack with more steps, or larger ones", 0.2),
    _attack(
        "more_restarts", "As many restarts again break more samples", "attack with more restarts until nothing changes"
    ),
    _attack("loss", "Another loss breaks samples that cross-entropy does not", STRONGER, 0.05),
    _attack("black_box", "Random search with scores alone breaks samples that gradients do not", f"{BPDA}; {STRONGER}"),
    _attack("noise", "Random noise breaks samples that gradients do not", f"{BPDA}; {STRONGER}"),
    _attack(
        "transfer",
        "Examples made on the surrogate break samples that the model's own gradients do not",
        f"to ask it, give surrogate= a model trained for the same task; {STRONGER}",
    ),
    _attack("silent", "The attack meets inputs that fool the model and returns ones that do not", EOT),
    _attack(
        "worst_case",
        "All attacks together break more than the usual one alone",
        "report the worst case a sample over all attacks",
        0.05,
    ),
)
"""Causes first, then what they do to attacks: an alarm there needs two samples, a cause can be seen on one."""
