"""What torch functions are to a backward rule: names, and the few kinds that they fall into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Function = Callable[..., Any]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


QUESTIONS = _names(
    """shape size dim ndim ndimension numel nelement len stride is_contiguous hash dtype is_floating_point is_complex
    requires_grad layout is_sparse is_quantized device get_device is_cuda is_mps is_cpu is_nested is_meta is_leaf
    grad_fn zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty
    new_tensor storage_offset data_ptr element_size itemsize nbytes repr format version is_inference names is_tensor
    is_same_size result_type can_cast finfo iinfo storage untyped_storage _backward_hooks grad is_storage
    assert_async"""
)
"""Questions about a tensor, and constants made like it."""

CONSTANTS = _names(
    """gt lt ge le eq ne greater less greater_equal less_equal not_equal isnan isinf isfinite argmax argmin argsort
    sign round floor ceil trunc heaviside item tolist bool float_scalar int_scalar any all nonzero count_nonzero
    allclose equal isclose int index contains logical_not logical_and logical_or bucketize one_hot detach is_nonzero"""
)
"""What is constant where it is differentiable at all: decisions, counts, and what the network detaches itself."""

PLACING = _names(
    """reshape view view_as reshape_as flatten unflatten permute transpose swapaxes swapdims movedim moveaxis t T mT H
    mH squeeze unsqueeze expand expand_as repeat repeat_interleave tile getitem narrow select index_select gather
    take_along_dim chunk split split_with_sizes tensor_split unbind unsafe_chunk unsafe_split hsplit vsplit
    contiguous clone roll flip fliplr flipud rot90 pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle unfold as_strided atleast_1d atleast_2d atleast_3d identity alias positive to type
    type_as float double half bfloat16 cpu cuda"""
)
"""What moves values without changing them."""

AFFINE = _names("add sub mul div rsub neg batch_norm")
"""What maps each value by a constant factor and term, where only one operand depends on the input."""

LINEAR = PLACING | _names(
    """add sub rsub neg sum mean cat concat concatenate stack hstack vstack dstack column_stack pad avg_pool1d
    avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample
    upsample_nearest upsample_bilinear cumsum fold dropout dropout1d dropout2d dropout3d alpha_dropout
    feature_dropout feature_alpha_dropout stochastic_depth masked_fill where tril triu diagonal diag_embed scatter
    scatter_add index_add index_copy index_fill masked_select setitem copy_into broadcast_to trace nan_to_num
    block_diag ravel"""
)
"""What is linear in all that depends on the input together, up to constants. (Products: `PRODUCTS`.)"""

SELECTING = _names(
    """max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d amax amin max min maximum minimum fmax fmin topk
    sort median kthvalue aminmax"""
)
"""What passes on some of its inputs and drops the rest: the winner takes all."""

KINKED = _names("relu leaky_relu prelu rrelu abs absolute threshold")
"""Piecewise linear through zero: their gradient is the ratio of output and input."""

ELEMENTWISE = (
    _names(
        """relu6 hardtanh clamp clip clamp_min clamp_max elu selu celu gelu silu swish mish hardswish softplus softsign
    tanh sigmoid hardsigmoid logsigmoid special_expit expit erf erfc sin cos tan asin acos atan sinh cosh asinh
    acosh atanh exp expm1 exp2 log1p square pow sqrt softshrink hardshrink tanhshrink arctan arcsin arccos logit"""
    )
    | KINKED
)
"""Functions of each value by itself."""

RECTIFIERS = _names(
    """relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu swish mish hardswish softplus threshold"""
)
"""Activations that let what is positive through."""

GATES = _names("sigmoid hardsigmoid special_expit expit relu6 hardtanh clamp clip")
"""Whose outputs gate the other factor of a product; ``hardtanh`` and ``clamp`` where they leave nothing below 0."""

SCALES = _names("softmax rsqrt reciprocal")
"""Whose outputs weigh other values: attention weights, the factors of a normalization."""

PRODUCTS = _names(
    """mul matmul bmm mm rmatmul einsum mv dot outer tensordot inner kron addmm addbmm baddbmm addmv grid_sample"""
)
QUOTIENTS = _names("div rdiv rtruediv")
HOMOGENEOUS = _names("norm std linalg_vector_norm linalg_norm frobenius_norm")
RATIOS = _names("normalize rms_norm local_response_norm")
"""Each value times a factor that the values share."""

_OF_LAYERS = {"input": None, "weight": None, "bias": None}
LAYERS: dict[str, dict[str, Any]] = {
    **{f"conv{d}d": {**_OF_LAYERS, "stride": 1, "padding": 0, "dilation": 1, "groups": 1} for d in (1, 2, 3)},
    **{
        f"conv_transpose{d}d": {
            **_OF_LAYERS,
            "stride": 1,
            "padding": 0,
            "output_padding": 0,
            "groups": 1,
            "dilation": 1,
        }
        for d in (1, 2, 3)
    },
    "linear": _OF_LAYERS,
}
"""The arguments of linear layers, in order, with their defaults."""
_OF_NORM = {"input": None, "running_mean": None, "running_var": None, "weight": None, "bias": None}
BATCH_NORM = {**_OF_NORM, "training": False, "momentum": 0.1, "eps": 1e-5}
NORMS: dict[str, dict[str, Any]] = {
    "layer_norm": {"input": None, "normalized_shape": None, "weight": None, "bias": None, "eps": 1e-5},
    "group_norm": {"input": None, "num_groups": 1, "weight": None, "bias": None, "eps": 1e-5},
    "instance_norm": {**_OF_NORM, "use_input_stats": True, "momentum": 0.1, "eps": 1e-5},
}
PAD = {"input": None, "pad": None, "mode": "constant", "value": None}

_ALIASES = {
    "truediv": "div",
    "divide": "div",
    "true_divide": "div",
    "subtract": "sub",
    "multiply": "mul",
    "rmul": "mul",
}
_ALIASES |= {"radd": "add", "negative": "neg", "softmin": "softmax"}
_INPLACE = {
    **dict.fromkeys(("relu", "relu6", "hardswish", "hardsigmoid", "silu", "mish", "selu"), 1),
    **dict.fromkeys(("elu", "celu", "leaky_relu"), 2),
    **dict.fromkeys(("hardtanh", "threshold", "dropout", "dropout1d", "dropout2d", "dropout3d"), 3),
    **dict.fromkeys(("alpha_dropout", "feature_alpha_dropout"), 3),
    "rrelu": 4,
}
"""Where functions take ``inplace``."""


def name_of(func: Function) -> str:
    """Returns a function's plain name: ``add`` for ``torch.add``, ``Tensor.add_`` and ``Tensor.__iadd__``."""
    name = str(getattr(func, "__name__", func))
    if name == "__get__":
        name = str(func.__self__.__name__)  # type: ignore[attr-defined]
    elif name.startswith("__i") and name.endswith("__") and name not in ("__int__", "__invert__", "__index__"):
        name = name[3:-2]
    elif name == "__float__":
        name = "item"
    name = name.strip("_")
    return _ALIASES.get(name, name)


def functional(func: Function, name: str, args: list[Any], kwargs: dict[str, Any]) -> Function | None:
    """Returns the function that gives what ``func`` would write into its first argument; None if it writes nothing.

    A flag ``inplace`` is taken out of the arguments.
    """
    at = _INPLACE.get(name)
    if at is not None and (kwargs.pop("inplace", False) or (len(args) > at and args[at])):
        del args[at:]
        return func
    raw = str(getattr(func, "__name__", ""))
    if raw == "__setitem__":
        return _with_item
    if raw.startswith("__i") and raw.endswith("__") and name_of(func) != raw.strip("_"):
        return getattr(Tensor, f"__{name if name != 'div' else 'truediv'}__", None)
    if not raw.endswith("_") or raw.endswith("__") or name in QUESTIONS:
        return None
    own = {"copy": _copied, "zero": torch.zeros_like, "fill": torch.full_like}
    found = own.get(name) or getattr(Tensor, name, None) or getattr(torch, name, None) or getattr(F, name, None)
    return found  # type: ignore[return-value]


def _with_item(tensor: Tensor, where: Any, value: Any) -> Tensor:
    changed = tensor.clone()
    changed[where] = value
    return changed


def _copied(tensor: Tensor, source: Tensor) -> Tensor:
    return source.to(tensor.dtype).expand_as(tensor)


def bound(defaults: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a call's arguments by name, in the order of ``defaults``."""
    return {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}


def tensors(value: Any) -> Iterator[Tensor]:
    """Yields the tensors in arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)


def replaced(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Returns arguments with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list, torch.Size):
        return type(value)([replaced(item, change) for item in value])
    if isinstance(value, tuple):  # a named one
        return type(value)(*(replaced(item, change) for item in value))
    if isinstance(value, dict):
        return {key: replaced(item, change) for key, item in value.items()}
    return value


def as_group_norm(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns an instance norm's arguments as a group norm's; None if it takes running statistics."""
    given = bound(NORMS["instance_norm"], args, kwargs)
    if not given["use_input_stats"]:
        return None
    given["num_groups"] = given["input"].shape[1]
    return {key: given[key] for key in NORMS["group_norm"]}
