"""Random draws that belong to a sample: the same whatever stands beside it in the batch, on every device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


_GAMMA, _M1, _M2 = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64, which torch only shifts with the sign."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014), on int64 in place of uint64."""
    z = (z ^ _shift(z, 30)).mul_(_M1)
    z = (z ^ _shift(z, 27)).mul_(_M2)
    return z ^ _shift(z, 31)


def keys(x: Tensor) -> Tensor:
    """Returns a key a sample ``(N,)``, from its content: a sample keeps its draws in any batch and any order."""
    rows = (
        x.detach()
        .to("cpu", torch.float64 if x.dtype == torch.float64 else torch.float32)
        .contiguous()
        .reshape(len(x), -1)
    )
    digests = [hashlib.blake2b(row.numpy().data, digest_size=8).digest() for row in rows]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


def branch(sample_keys: Tensor, number: Tensor) -> Tensor:
    """Returns the keys of other streams of the same samples: a stream a number, int64 ``(N,)`` both."""
    return _mix(sample_keys ^ _mix(number * _GAMMA + 1))


class Draws:
    """One counter-based stream a sample.

    Every sample advances along its own stream only when it draws, so a draw depends on the seed, the sample and how
    often that sample has drawn before: never on its neighbours.

    Args:
        sample_keys: int64 ``(N,)``.
        seed: of the whole run.
        device: where the draws are made.
    """

    def __init__(self, sample_keys: Tensor, seed: int, device: torch.device | str = "cpu") -> None:
        self._base = _mix(sample_keys.to(device) ^ _signed(seed * 0xD1342543DE82EF95 + 0x2545F4914F6CDD1D))
        self._count = torch.zeros_like(self._base)

    def _bits(self, size: int, rows: Tensor | None) -> Tensor:
        picked = slice(None) if rows is None else rows
        start = self._count[picked].clone()
        self._count[picked] = start + size
        counter = start[:, None] + torch.arange(1, size + 1, device=self._base.device)
        return _mix(counter.mul_(_GAMMA).add_(self._base[picked][:, None]))

    def uniform(
        self, shape: Sequence[int] = (), rows: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Returns draws from [0, 1), shape ``(n, *shape)``.

        Args:
            shape: of one sample's draw.
            rows: which samples draw, each at most once ``(n,)``; all of them if None.
            dtype: of the draws; float32 takes 24 bits, float64 takes 53.
        """
        digits = 53 if dtype == torch.float64 else 24
        bits = _shift(self._bits(math.prod(shape), rows), 64 - digits)
        return bits.to(dtype).mul_(2.0**-digits).reshape(-1, *shape)

    def normal(
        self, shape: Sequence[int] = (), rows: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Returns standard normal draws ``(n, *shape)``, by Box and Muller."""
        size = math.prod(shape)
        half = (size + 1) // 2
        pair = self.uniform((2, half), rows, dtype)
        radius = (1 - pair[:, 0]).log_().mul_(-2).sqrt_()  # 1 - u lies in (0, 1]
        angle = pair[:, 1] * (2 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :size].reshape(-1, *shape)

    def signs(
        self, shape: Sequence[int] = (), rows: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Returns -1 or 1 with equal chance, shape ``(n, *shape)``."""
        return torch.where(self.uniform(shape, rows) < 0.5, -1.0, 1.0).to(dtype)

    def words(self, bits: int, shape: Sequence[int] = (), rows: Tensor | None = None) -> Tensor:
        """Returns integers of so many random bits, at most 63, shape ``(n, *shape)``: `below` a power of two, quicker.

        Up to 53 bits they are those that `below` would draw.
        """
        return _shift(self._bits(math.prod(shape), rows), 64 - bits).reshape(-1, *shape)

    def below(self, high: Tensor | int, shape: Sequence[int] = (), rows: Tensor | None = None) -> Tensor:
        """Returns integers in ``[0, high)``, shape ``(n, *shape)``; ``high`` may differ a row."""
        top = torch.as_tensor(high, device=self._base.device, dtype=torch.float64)
        top = top.reshape(-1, *(1,) * len(shape)) if top.ndim else top
        return (self.uniform(shape, rows, torch.float64) * top).floor_().long()
