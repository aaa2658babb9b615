"""A node of an ONNX graph while it is read: its attributes and inputs, and which of them a rule has looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ironglass.core.errors import InputError

BATCH = 7919
"""Stands for the batch's size where a graph computes with its own shape."""


class Refused(InputError):
    """A node that cannot be followed; names its operator and says why."""


@dataclass(slots=True)
class Node:
    """One node, for the rule that writes it as a module.

    Args:
        op: the operator.
        place: the node's name, or that of its output.
        opset: the version of ONNX that the file is written in.
        values: of the inputs in their order, None where one is left out: a constant, or what the probes are there.
        live: for each input, whether it hangs on the network's input.
        attributes: by name. Each has to be read: one that no rule asks for is refused.
        outputs: how many are used.
    """

    op: str
    place: str
    opset: int
    values: Sequence[Tensor | None]
    live: Sequence[bool]
    attributes: Mapping[str, Any]
    outputs: int = 1
    read: set[str] = field(default_factory=set)

    def refuse(self, reason: str) -> Refused:
        """Returns the error that this use of the operator is not known."""
        return Refused(f"{self.op} at '{self.place}': {reason}", "give the network itself, as file.py:factory")

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute, text as text."""
        self.read.add(name)
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def only(self, name: str, *allowed: Any) -> None:
        """Refuses an attribute that is there and is none of these."""
        if name in self.attributes and self.get(name) not in allowed:
            raise self.refuse(f"{name}={self.get(name)} is not known")

    def unread(self) -> list[str]:
        """Returns the attributes that the rule did not look at."""
        return sorted(set(self.attributes) - self.read)

    @property
    def x(self) -> Tensor:
        """The first input, which has to hang on the network's input: the probes."""
        x = self.values[0]
        if x is None or not self.live[0]:
            raise self.refuse("its first input does not depend on the network's input")
        return x

    def given(self, index: int) -> bool:
        """Returns whether there is such an input."""
        return index < len(self.values) and self.values[index] is not None

    def constant(self, index: int, what: str) -> Tensor:
        """Returns an input that has to be a constant."""
        value = self.values[index] if self.given(index) else None
        if value is None or self.live[index]:
            raise self.refuse(f"its {what} is not a constant")
        return value

    def numbers(self, index: int, name: str) -> list[int] | None:
        """Returns whole numbers that are an attribute in old files and an input in later ones; None where absent."""
        if self.given(index):
            return [int(value) for value in self.constant(index, name).reshape(-1)]
        value = self.get(name)
        return None if value is None else [int(item) for item in ([value] if isinstance(value, int) else value)]

    def axis(self, axis: int, *, batch: bool = False) -> int:
        """Returns an axis counted from the front; the batch's is refused."""
        ndim = self.x.ndim
        if not -ndim <= axis < ndim:
            raise self.refuse(f"axis {axis} of a tensor with {ndim}")
        if axis % ndim == 0 and not batch:
            raise self.refuse("it mixes the samples of a batch")
        return axis % ndim
