"""Backward passes that let only positive gradients through rectifiers: guided backpropagation and the deconvnet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ironglass.core.errors import InputError

from .interceptor import Interceptor
from .linear import pulled
from .vocabulary import RECTIFIERS, Function, tensors


class Rectified(Interceptor):
    r"""One pass. Guided: :math:`G_z = a'(z)\,\max(G_y, 0)`; deconvnet: :math:`G_z = \max(G_y, 0)`.

    Args:
        guided: whether the rectifier's own derivative counts as well.
    """

    what = "guided backpropagation"

    def __init__(self, *, guided: bool) -> None:
        super().__init__()
        self._guided, self._seen = guided, False

    def __call__(self, network: Callable[[Tensor], Tensor], leaf: Tensor) -> Tensor:
        """Returns the scores; the gradient to ``leaf`` is changed at every rectifier.

        Raises:
            InputError: if there is none.
        """
        out = self.run(network, self.mark(leaf, None))
        if not self._seen:
            raise InputError(
                "the network calls no rectifier that can be seen: the map would be the plain gradient",
                "use saliency, or gradient_x_input",
            )
        return out

    def call(self, name: str, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Returns the function's result; its backward pass is the usual one, unless it is a rectifier."""
        out = func(*args, **kwargs)
        if self._rectifies(name, args, kwargs):
            self._seen = True
            out = pulled(out.detach(), lambda grad: grad.clamp(min=0), out if self._guided else args[0])
        for tensor in tensors(out):
            if tensor.requires_grad:
                self.mark(tensor, None)
        return out

    def _rectifies(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a function lets through what is positive; limits do if they cut at 0."""
        if name in ("hardtanh", "clamp", "clip", "clamp_min"):
            low = [*args[1:2], *(kwargs[key] for key in ("min_val", "min") if key in kwargs), None][0]
            return self.live(args[0]) and isinstance(low, int | float) and low == 0
        return name in RECTIFIERS and self.live(args[0])
