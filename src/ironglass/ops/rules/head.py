"""Reads a network's head: whether its logits are a linear map of its last feature maps' means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from ironglass.core.errors import InputError

from .interceptor import Interceptor
from .vocabulary import LAYERS, Function, bound, tensors


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """Feature maps ``(n, K, h, w)`` on their way: pooled, and then weighed.

    Args:
        maps: the feature maps.
        weight: of each of them in each logit ``(classes, K)``; None before the linear layer.
        bias: of each logit.
        why: what has become of them that no map shows.
    """

    maps: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    why: str = ""


_POOLS = frozenset(("adaptive_avg_pool2d", "avg_pool2d", "mean"))
_KEEPING = frozenset(
    ("flatten", "reshape", "view", "squeeze", "getitem", "contiguous", "clone", "dropout", "dropout2d", "to", "float")
)


class Head(Interceptor):
    """One pass that follows the features to the logits."""

    what = "a class activation map"

    def __call__(self, network: Callable[[Tensor], Tensor], leaf: Tensor) -> tuple[Tensor, Maps]:
        """Returns the scores, and the maps and weights that they are made of.

        Raises:
            InputError: if they are not means of feature maps, weighed by one linear layer.
        """
        scores = self.run(network, self.mark(leaf, "nothing is pooled"))
        found = self._of(scores)
        if isinstance(found, Maps) and found.weight is None and scores.ndim == 2:  # a map a class
            found = Maps(found.maps, torch.eye(scores.shape[1]).to(scores), None)
        why = found if isinstance(found, str) else found.why
        if not isinstance(found, Maps) or why or found.weight is None or scores.shape[1] != len(found.weight):
            lacks = why or "the pooled features are not the logits"
            raise InputError(
                f"class activation maps need one linear layer over globally pooled feature maps as logits; {lacks}",
                "use grad_cam, which needs no such head",
            )
        return scores, found

    def call(self, name: str, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Returns the function's own result, and notes what it makes of the features."""
        out = func(*args, **kwargs)
        lives = [tensor for tensor in tensors((args, kwargs)) if self.live(tensor)]
        return self.mark(out, self._what(name, args, kwargs, lives, out))

    def _of(self, tensor: Tensor) -> Maps | str:
        found: Maps | str = self.note(tensor, lambda: "")
        return found

    def _what(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], lives: Sequence[Tensor], out: Any
    ) -> Maps | str:
        x = lives[0]
        before = self._of(x)
        if not isinstance(out, Tensor) or len(lives) > 1:
            return f"'{name}' comes last"
        if name in _POOLS and x.ndim == 4 and out.numel() == x.shape[0] * x.shape[1] and out.shape[:2] == x.shape[:2]:
            exact = torch.allclose(out.flatten(), x.mean((2, 3)).flatten(), rtol=1e-3, atol=1e-5)
            return Maps(x.detach()) if exact else f"'{name}' is no plain mean"
        if not isinstance(before, Maps):
            return (
                before if name in _KEEPING else f"'{name}' comes before the linear layer, and there is no global pool"
            )
        same = out.shape[0] == x.shape[0] and out.numel() == x.numel()
        if name in _KEEPING and same:
            return before
        if name in LAYERS and before.weight is None and not before.why:
            given = bound(LAYERS[name], args, kwargs)
            weight = cast(Tensor, given["weight"]).flatten(1)
            if weight.shape[1] == before.maps.shape[1] and out.numel() == out.shape[0] * len(weight):
                return Maps(before.maps, weight, given["bias"])
        where = "after the linear layer" if before.weight is not None else "between the pooled features and the logits"
        return replace(before, why=before.why or f"'{name}' comes {where}")
