"""Follows what depends on the input through every torch function that a network calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ironglass.core.errors import InputError

from .vocabulary import CONSTANTS, QUESTIONS, Function, functional, name_of, replaced, tensors

N = TypeVar("N")


class Interceptor(TorchFunctionMode):
    """Sees each call of a torch function while it is active, whether a module makes it or not; gradients are enabled.

    A tensor that depends on the input bears a note. In place operations are done aside: the tensor that would be
    written keeps its values, and its successor stands in for it wherever the network names it again. So nothing that a
    backward pass needs is ever overwritten.

    Args:
        what: what passes through the functions, for errors.
    """

    what = "a backward rule"

    def __init__(self) -> None:
        super().__init__()
        self._now: dict[int, tuple[Tensor, Any]] = {}
        self._written: dict[int, list[Tensor]] = {}

    def call(self, name: str, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Returns the function's result; some argument bears a note. Results that depend on the input get one."""
        raise NotImplementedError

    def run(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Returns the network's scores for an input that bears a note.

        Raises:
            InputError: if they do not come from the input by functions that were seen.
        """
        try:
            with self:
                out: Tensor = self._current(network(x))
        finally:
            self._now.clear()
            self._written.clear()
        if not self.live(out):
            raise InputError(
                f"{self.what} never reaches the input: the scores depend on it through weights alone, such as those of "
                "a softmax, or not through PyTorch functions",
                "give a network that returns logits, without a softmax at its end, and not compiled or scripted",
            )
        return out

    def live(self, value: Any) -> bool:
        """Returns whether a value is a tensor that depends on the input."""
        return isinstance(value, Tensor) and getattr(value, "_note", (None, None))[0] is self

    def note(self, tensor: Tensor, kind: Callable[[], N]) -> N:
        """Returns what is known of a tensor: one of ``kind``."""
        found: N = getattr(tensor, "_note")[1] if self.live(tensor) else kind()  # noqa: B009 - not known to mypy
        return found

    def mark(self, out: Any, note: Any) -> Any:
        """Notes the floating tensors of a result as depending on the input, and returns it."""
        for tensor in tensors(out):
            if tensor.is_floating_point() or tensor.is_complex():
                tensor._note = (self, note)  # type: ignore[attr-defined]
        return out

    def refuse(self, name: str, reason: str = "no rule is known for it") -> NoReturn:
        """Raises the error that names a function."""
        raise InputError(
            f"{self.what} cannot pass the function {name}: {reason}",
            "explain with a method that needs only gradients or scores, such as integrated_gradients or occlusion",
        )

    def __torch_function__(
        self, func: Function, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = name_of(func)
        positional, named = list(map(self._current, args)), {k: self._current(v) for k, v in (kwargs or {}).items()}
        given = list(tensors((positional, named)))
        if name in QUESTIONS:
            return func(*positional, **named)
        if not any(self.live(tensor) for tensor in given):
            if any(tensor.grad_fn is not None for tensor in given):
                self.refuse(
                    name, "its input was not computed by PyTorch functions (a script, or a backward of its own)"
                )
            return func(*positional, **named)
        if name == "setitem":
            self._forget(*positional[:2])
        if self._written:
            self._check(name, given)
        if name in CONSTANTS:
            with torch.no_grad():
                return func(*positional, **named)
        if name == "iter":
            return iter(self.call("unbind", Tensor.unbind, positional, named))
        if named.get("out") is not None:
            self.refuse(name, "it writes into a tensor given as out=")
        aside = functional(func, name, positional, named)
        if not torch.is_grad_enabled():  # what the network itself cuts off, or the inside of a function of its own
            if aside is not None:
                self.refuse(name, "it writes in place where the network has gradients disabled")
            return func(*positional, **named)
        if aside is None:
            return self.call(name, func, positional, named)
        target = positional[0]
        if name in ("zero", "fill"):
            out: Any = aside(*positional, **named)
        else:
            out = self.call("copy_into" if name in ("copy", "setitem") else name, aside, positional, named)
        self._now[id(target)] = (target, out)
        self._written.setdefault(target.untyped_storage().data_ptr(), []).append(target)
        return out

    def _current(self, value: Any) -> Any:
        """Returns arguments with what was written in place standing for what it was written into."""
        return replaced(value, self._latest) if self._now else value

    def _latest(self, tensor: Tensor) -> Tensor:
        while id(tensor) in self._now:
            tensor = self._now[id(tensor)][1]
        return tensor

    def _forget(self, tensor: Tensor, where: Any) -> None:
        """Forgets that a part was written which is written anew: ``x[where] += y`` adds, then sets the item."""
        written = self._written.get(tensor.untyped_storage().data_ptr())
        if written:
            part = tensor[where]
            place = (part.shape, part.stride(), part.storage_offset())
            written[:] = [old for old in written if (old.shape, old.stride(), old.storage_offset()) != place]

    def _check(self, name: str, given: Sequence[Tensor]) -> None:
        """Refuses a view of what was written in place."""
        for tensor in given:
            for old in self._written.get(tensor.untyped_storage().data_ptr(), ()):
                if _overlap(tensor, old):
                    self.refuse(name, "its input was changed in place through another view of the same values")


def _overlap(a: Tensor, b: Tensor) -> bool:
    flags = torch.zeros(a.untyped_storage().nbytes() // a.element_size(), dtype=torch.bool)
    flags.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(flags.as_strided(b.shape, b.stride(), b.storage_offset()).any())
