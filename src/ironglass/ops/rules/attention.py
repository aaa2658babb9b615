"""Functions that torch computes in one piece, as the smaller ones that rules know."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.errors import InputError


def multi_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    size: int,
    heads: int,
    weight: Tensor | None,
    bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Returns what ``F.multi_head_attention_forward`` does, batch second, in eval mode and without its weights.

    Raises:
        InputError: for the additions that few networks use.
    """
    extras = {"bias_k": bias_k, "static_k": options.get("static_k"), "static_v": options.get("static_v")}
    used = [name for name, extra in extras.items() if extra is not None] + ["add_zero_attn"] * add_zero_attn
    if used or options.get("training"):
        raise InputError(
            f"relevance cannot pass multi-head attention with {', '.join(used) or 'dropout'}", "leave it out"
        )
    single = query.ndim == 2
    if single:
        query, key, value = query[:, None], key[:, None], value[:, None]
    if options.get("use_separate_proj_weight"):
        weights = [options[name] for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight")]
        biases = [None] * 3 if bias is None else list(bias.chunk(3))
        parts = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
    elif weight is not None and query is key and key is value:
        parts = list(F.linear(query, weight, bias).chunk(3, -1))
    else:
        assert weight is not None
        biases = [None] * 3 if bias is None else list(bias.chunk(3))
        parts = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weight.chunk(3), biases, strict=True)]
    q, k, v = (part.reshape(len(part), part.shape[1], heads, -1).permute(1, 2, 0, 3) for part in parts)
    mask = _mask(options.get("attn_mask"), options.get("key_padding_mask"), heads, q)
    causal = bool(options.get("is_causal")) and mask is None
    out = F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal)
    out = F.linear(out.permute(2, 0, 1, 3).reshape(len(query), -1, size), out_weight, out_bias)
    return (out[:, 0] if single else out), None


def _mask(mask: Tensor | None, padding: Tensor | None, heads: int, q: Tensor) -> Tensor | None:
    """Returns both masks as one that is added to the scores ``(N or 1, heads or 1, L, S)``."""
    total = None
    for part in (mask, padding):
        if part is None:
            continue
        added = (
            torch.zeros_like(part, dtype=q.dtype).masked_fill(part, -torch.inf) if part.dtype == torch.bool else part
        )
        if part is padding:
            added = added[:, None, None]
        elif added.ndim == 3:
            added = added.reshape(-1, heads, *added.shape[1:])
        total = added if total is None else total + added
    return total


def scaled_dot_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Returns what ``F.scaled_dot_product_attention`` does, by a product, a softmax and a product."""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~keep, -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return torch.softmax(scores, -1) @ value


def gated(x: Tensor, dim: int = -1) -> Tensor:
    """Returns what ``F.glu`` does."""
    signal, gate = x.chunk(2, dim)
    return signal * torch.sigmoid(gate)
