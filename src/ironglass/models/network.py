"""A PyTorch network at work: eval mode, frozen, chunked for memory, watched and cut at its layers."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx, nn

from ironglass.core.access import At, Loss, Pass, Run, Through
from ironglass.core.errors import InputError

from . import fast
from .backend import Backend
from .halves import Halves, halves
from .survey import Survey, redraw, settle, survey

R = TypeVar("R")


class Whole(nn.Module):
    """A network in the user's units: normalizes, runs, and picks the logits out of what comes back."""

    def __init__(self, net: nn.Module, mean: Tensor | None, std: Tensor | None) -> None:
        super().__init__()
        self.net = net
        self.pick: str | int | None = None
        self.mean: Tensor | None
        self.std: Tensor | None
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits ``(n, classes)``."""
        out = self._out(x)
        if self.pick is None:
            return cast(Tensor, out)
        return cast(Tensor, out[self.pick])

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits and their log-variance, of a network that gives both: a pair, or by these names."""
        out = self._out(x)
        if isinstance(out, Mapping) and "log_variance" in out:
            first, second = out[self.pick], out["log_variance"]
        else:
            first, second = out[:2] if isinstance(out, tuple | list) and len(out) > 1 else (None, None)
        if not isinstance(first, Tensor) or not isinstance(second, Tensor) or first.shape != second.shape:
            raise InputError(
                "the network gives no log-variance beside its logits",
                "return (logits, log_variance), of one shape, or heteroscedastic=False",
            )
        return first, second

    def _out(self, x: Tensor) -> Any:
        if self.mean is not None:
            x = x - self.mean
        if self.std is not None:
            x = x / self.std
        return self.net(x)

    def learn_output(self, x: Tensor) -> None:
        """Finds where in the network's output the logits are: the tensor, ``logits``, or the first of a tuple."""
        self.pick = None
        out: Any = self(x)
        if not isinstance(out, Tensor):
            keys = (
                list(out)
                if isinstance(out, Mapping)
                else list(range(len(out)) if isinstance(out, tuple | list) else [])
            )
            self.pick = "logits" if "logits" in keys else keys[0] if keys and keys[0] == 0 else None
            if self.pick is None or not isinstance(out[self.pick], Tensor):
                raise InputError(f"the network returns {type(out).__name__}", "return logits (n, classes)")


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Puts a network in eval mode with frozen parameters, and back as it was, also after an exception."""
    modes = [(module, module.training) for module in net.modules()]
    grads = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _ in grads:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, grad in grads:
            parameter.requires_grad_(grad)


class Torch(Backend):
    """A PyTorch network.

    Scores and gradients run on a private copy that is made for speed and checked against the original; so does the
    gradient to a layer where the copy can be cut there. What else looks inside the network runs on the original, frozen
    meanwhile. The copy is renewed when the network has changed.
    """

    def __init__(self, net: nn.Module, mean: Tensor | None, std: Tensor | None, optimize: bool = True) -> None:
        self._whole = Whole(net, mean, std)
        self._optimize, self._copy, self._seen = optimize, None, None
        first = next(net.parameters(), next(net.buffers(), torch.zeros(())))
        self.device = first.device
        self.dtype = first.dtype if first.is_floating_point() else torch.float32
        self._rows = 1
        self._surveys: dict[tuple[int, ...], Survey] = {}
        self._cuts: dict[str, Halves | None] = {}

    _copy: fast.FastNet | None
    _seen: fast.Snapshot | None

    def prepare(self, x: Tensor) -> None:
        """Renews the private copy if the network is not what it was."""
        if self._seen is not None and self._seen.matches(self._whole):
            return
        seen = fast.Snapshot(self._whole)
        example = self._enter(x[:1])
        with frozen(self._whole), torch.no_grad():
            self._whole.learn_output(example)
            self._rows = fast.rows_per_pass(self._whole, example)
        self._surveys, self._cuts = {}, {}
        self._copy = fast.private_copy(self._whole, self._enter(x[: min(len(x), 2)])) if self._optimize else None
        self._seen = seen

    def scores(self, x: Tensor) -> Tensor:
        """Returns the logits."""
        run = self._copy.scores if self._copy is not None else self._plain
        with ExitStack() as stack:
            if self._copy is None:
                stack.enter_context(frozen(self._whole))
            return torch.cat(self._chunked(len(x), lambda part: run(self._enter(x[part]))))

    def value_and_grad(self, x: Tensor, loss: Loss, layer: str | None = None) -> Pass:
        """Returns the loss of the scores or of a layer's output, its gradient to ``x`` alone, and the scores."""
        if layer is None:
            return self.propagate(x, loss, lambda run, leaf, _: run(leaf))
        seen: list[Tensor] = []

        def keep(_module: nn.Module, _args: Any, out: Any) -> None:
            seen.append(_tensor_of(out, layer).clone())  # an in-place layer may follow

        def step(part: slice) -> Pass:
            seen.clear()
            leaf = self._enter(x[part]).requires_grad_()
            scores = self._plain(leaf)
            value = loss(_once(seen, layer), part)
            (grad,) = torch.autograd.grad(value.sum(), leaf, materialize_grads=True)
            return Pass(value.detach(), grad.to(x.dtype), scores.detach())

        with self._hooked({layer: keep}), torch.enable_grad():
            return Pass(*map(torch.cat, zip(*self._chunked(len(x), step), strict=True)))

    def propagate(self, x: Tensor, loss: Loss, through: Through) -> Pass:
        """Returns the loss, what flows back to ``x`` as ``through`` runs the network, and the scores."""

        def step(part: slice) -> Pass:
            leaf = self._enter(x[part]).requires_grad_()
            scores = through(cast(Run, net), leaf, part)
            value = loss(scores, part)
            (grad,) = torch.autograd.grad(value.sum(), leaf, materialize_grads=True)
            return Pass(value.detach(), grad.to(x.dtype), scores.detach())

        with self._differentiable() as net:
            return Pass(*map(torch.cat, zip(*self._chunked(len(x), step), strict=True)))

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the scores and one gradient a wanted logit: one forward pass, a backward pass each."""

        def step(part: slice) -> tuple[Tensor, Tensor]:
            leaf = self._enter(x[part]).requires_grad_()
            scores = net(leaf)
            wanted = scores.gather(1, classes[part])
            columns = range(wanted.shape[1])
            grads = [
                torch.autograd.grad(wanted[:, k].sum(), leaf, retain_graph=True, materialize_grads=True)[0]
                for k in columns
            ]
            return scores.detach(), torch.stack(grads, 1).to(x.dtype)

        with self._differentiable() as net:
            scores, grads = zip(*self._chunked(len(x), step), strict=True)
            return torch.cat(scores), torch.cat(grads)

    def layers(self, x: Tensor) -> dict[str, tuple[int, ...]]:
        """Returns the layers that run once and give a tensor, in the order they end."""
        return dict(self._survey(x).shapes)

    def activations(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Returns the outputs of those layers, copied before an in-place layer can overwrite them."""
        kept: dict[str, list[Tensor]] = {name: [] for name in layers}

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _args: Any, out: Any) -> None:
                kept[name].append(_tensor_of(out, name).detach().clone())

            return hook

        def step(part: slice) -> dict[str, Tensor]:
            for parts in kept.values():
                parts.clear()
            self._plain(self._enter(x[part]))
            return {name: _once(parts, name) for name, parts in kept.items()}

        with self._hooked({name: keep(name) for name in layers}), torch.no_grad():
            chunks = self._chunked(len(x), step)
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in layers}

    def at(self, layer: str, x: Tensor, loss: Loss, instead: Tensor | None = None, of: str | None = None) -> At:
        """Returns a layer's activation and gradient; the graph begins there, so the backward pass ends there.

        It runs on the private copy, where that can be cut at the layer.
        """
        if of is None and (halves := self._halves(layer, x)) is not None:
            return self._at_cut(halves, layer, x, loss, instead)
        return self._at_layer(layer, x, loss, instead, of)

    def _halves(self, layer: str, x: Tensor) -> Halves | None:
        """Returns the copy cut at a layer if it gives there what the network gives; remembered."""
        if self._copy is None or not isinstance(self._copy.net, fx.GraphModule):
            return None
        if layer not in self._cuts:
            self._cuts[layer] = None
            with suppress(Exception):  # what cannot be cut or differs is left to the network itself
                cut = halves(self._copy.net, self._copy.scorer, f"net.{layer}")
                few = x[:2]
                ours = self._at_cut(cut, layer, few, fast.mixed, None)
                own = self._at_layer(layer, few, fast.mixed, None, None)
                fast.difference(ours.activation, own.activation)
                fast.difference(ours.scores, own.scores)
                if (ours.grad - own.grad).norm() <= fast.TOLERANCE[own.grad.dtype] ** 0.5 * own.grad.norm():
                    self._cuts[layer] = cut  # rounding turns a rectifier near 0 on or off, and single values with it
        return self._cuts[layer]

    def _at_cut(self, halves: Halves, layer: str, x: Tensor, loss: Loss, instead: Tensor | None) -> At:
        def step(part: slice) -> At:
            own, beside = halves.start(self._enter(x[part]))
            leaf = _leaf(layer, own, None if instead is None else instead[part])
            scores = halves.after(leaf.clone(), *beside)  # an in-place layer may follow
            return _at(leaf, scores, loss(scores, part))

        with torch.enable_grad():
            return At(*map(torch.cat, zip(*self._chunked(len(x), step), strict=True)))

    def _at_layer(self, layer: str, x: Tensor, loss: Loss, instead: Tensor | None, of: str | None) -> At:
        def step(part: slice) -> At:
            leaf, scores, out = run(part)
            return _at(leaf, scores, loss(out, part))

        with self._cut(layer, x, instead, of) as run, torch.enable_grad():
            return At(*map(torch.cat, zip(*self._chunked(len(x), step), strict=True)))

    def resume(self, layer: str, x: Tensor, instead: Tensor, of: str | None = None) -> Tensor:
        """Returns the scores, or another layer's output, with ``instead`` in the place of what a layer gives."""
        with self._cut(layer, x, instead, of) as run, torch.no_grad():
            return torch.cat(self._chunked(len(x), lambda part: run(part)[2]))

    @contextmanager
    def _cut(
        self, layer: str, x: Tensor, instead: Tensor | None, of: str | None
    ) -> Iterator[Callable[[slice], tuple[Tensor, Tensor, Tensor]]]:
        """Yields what runs samples: the leaf that a layer's output is cut to, the scores, and what is looked at."""
        cuts: list[Tensor] = []
        seen: list[Tensor] = []
        begins = slice(0)

        def cut(_module: nn.Module, _args: Any, out: Any) -> Any:
            leaf = _leaf(layer, _tensor_of(out, layer), None if instead is None else instead[begins])
            cuts.append(leaf)
            live = leaf.clone()  # an in-place layer may follow
            return (live, *out[1:]) if isinstance(out, tuple) else live

        def keep(_module: nn.Module, _args: Any, out: Any) -> None:
            seen.append(_tensor_of(out, str(of)).clone())

        def run(part: slice) -> tuple[Tensor, Tensor, Tensor]:
            nonlocal begins
            begins = part
            cuts.clear()
            seen.clear()
            scores = self._plain(self._enter(x[part]))
            return _once(cuts, layer), scores, scores if of is None else _once(seen, of)

        with self._hooked({layer: cut} | ({} if of is None else {of: keep})):
            yield run

    def module(self, x: Tensor) -> nn.Module:
        """Returns a frozen copy of the network in eval mode, normalization inside, layers as they are."""
        twin = copy.deepcopy(self._whole)
        return twin.eval().requires_grad_(False)

    @property
    def whole(self) -> Whole:
        """The network in the user's units, as it runs."""
        return self._whole

    def apprentice(self) -> Torch:
        """Returns the same on a copy of the network, to be trained: parameters that are frozen here are frozen there.

        Raises:
            InputError: if Python cannot copy the network.
        """
        twin = copy.copy(self)
        try:
            twin._whole = copy.deepcopy(self._whole)
        except Exception as error:
            raise InputError(
                f"the network cannot be copied: {type(error).__name__}: {error}", "keep locks and open files out of it"
            ) from error
        twin._copy, twin._seen, twin._optimize, twin._surveys, twin._cuts = None, None, False, {}, {}
        return twin

    def parameter_layers(self, x: Tensor) -> list[str]:
        """Returns the layers that hold parameters or running statistics themselves, in the order they begin."""
        return list(self._survey(x).holders)

    def reinitialized(self, layers: Sequence[str], seed: int, x: Tensor) -> Torch:
        """Returns a copy whose layers are drawn anew by their own initializer, running statistics included."""
        twin = copy.copy(self)
        twin._whole, twin._copy, twin._optimize = cast(Whole, self.module(torch.empty(0))), None, False
        named = dict(twin._whole.net.named_modules())
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(seed)
            for name in layers:
                redraw(named[name])
            settle(
                twin._whole,
                [named[name] for name in layers],
                torch.rand(8, *x.shape[1:], device=self.device).to(self.dtype),
            )
        return twin

    @property
    def rows_at_once(self) -> int:
        """How many samples are run at a time."""
        return self._rows

    def plainly(self, x: Tensor, step: Callable[[Whole, Tensor, slice], R], rows: int) -> list[R]:
        """Runs a step with the network as it is, frozen and in eval mode, on so many samples at a time."""
        with frozen(self._whole):
            starts = range(0, len(x), rows)
            parts = [slice(start, min(start + rows, len(x))) for start in starts]
            return [step(self._whole, self._enter(x[part]), part) for part in parts]

    def identity(self) -> str:
        """Returns a hash of the architecture and every parameter and buffer."""
        digest = hashlib.blake2b(repr(self._whole).encode(), digest_size=20)
        digest.update(repr(type(self._whole.net)).encode())
        for name, tensor in self._whole.state_dict().items():
            digest.update(f"{name}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def parameters(self) -> int:
        """Returns the number of parameters."""
        return sum(parameter.numel() for parameter in self._whole.parameters())

    def __getstate__(self) -> dict[str, Any]:
        """Leaves behind what was learned of the network: another process looks for itself."""
        return self.__dict__ | {"_copy": None, "_seen": None, "_surveys": {}, "_cuts": {}}

    def _survey(self, x: Tensor) -> Survey:
        """Watches one sample pass through the network; remembered until the network changes."""
        shape = tuple(x.shape[1:])
        if shape not in self._surveys:
            with frozen(self._whole):
                self._surveys[shape] = survey(self._whole, self._whole.net, self._enter(x[:1]))
        return self._surveys[shape]

    def _enter(self, x: Tensor) -> Tensor:
        return x.detach().to(self.device, self.dtype)

    def _plain(self, x: Tensor) -> Tensor:
        return cast(Tensor, self._whole(x))

    @contextmanager
    def _differentiable(self) -> Iterator[nn.Module]:
        with ExitStack() as stack:
            if self._copy is None:
                stack.enter_context(frozen(self._whole))
            stack.enter_context(torch.enable_grad())
            yield self._whole if self._copy is None else self._copy.net

    @contextmanager
    def _hooked(self, hooks: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
        named = dict(self._whole.net.named_modules())
        for name in hooks:
            if name not in named:
                raise InputError(
                    f"the network has no layer '{name}'", "name one of: " + ", ".join(list(named)[1:9]) + ", …"
                )
        handles = [named[name].register_forward_hook(hook) for name, hook in hooks.items()]
        try:
            with frozen(self._whole):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _chunked(self, size: int, step: Callable[[slice], R]) -> list[R]:
        """Runs ``step`` over micro-batches; when memory is short, halves them and remembers."""
        results: list[R] = []
        start = 0
        while start < size:
            try:
                results.append(step(slice(start, min(start + self._rows, size))))
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if self._rows == 1 or not _is_memory(error):
                    raise
                self._rows //= 2
                continue
            start += self._rows
        return results


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _leaf(layer: str, own: Tensor, instead: Tensor | None) -> Tensor:
    """Returns what a layer gives, or what is put in its place, for a gradient to be taken to."""
    leaf = own.detach() if instead is None else instead.detach().to(own)
    if leaf.shape != own.shape:
        given, wanted = (tuple(tensor.shape[1:]) for tensor in (leaf, own))
        raise InputError(f"an activation of shape {given} for layer '{layer}'", f"give one of shape {wanted}")
    return leaf.requires_grad_()


def _at(leaf: Tensor, scores: Tensor, value: Tensor) -> At:
    total = value.sum() + 0 * leaf.sum()  # so that there is a gradient where nothing depends on the layer
    (grad,) = torch.autograd.grad(total, leaf)
    return At(leaf.detach(), grad, scores.detach(), value.detach())


def _tensor_of(out: Any, layer: str = "") -> Any:
    tensor = out[0] if isinstance(out, tuple) and out else out
    if isinstance(tensor, Tensor):
        return tensor
    if layer:
        raise InputError(f"layer '{layer}' gives {type(out).__name__}, not a tensor", "name a layer inside it")
    return None


def _once(seen: list[Tensor], layer: str) -> Tensor:
    if len(seen) != 1:
        raise InputError(f"layer '{layer}' runs {len(seen)} times in one pass", "name a layer that runs once")
    return seen[0]
