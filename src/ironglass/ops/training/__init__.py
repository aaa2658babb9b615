"""Training: the loop, its schedules, the student, what it is attacked with, and the bounds it is trained on."""

from .loop import BatchLoss, Loop, Progress, fit

__all__ = ["BatchLoss", "Loop", "Progress", "fit"]
