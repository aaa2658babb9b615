"""Feature squeezing: coarser inputs, in which small changes drown."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.access import Query
from ironglass.core.errors import InputError
from ironglass.core.method import defence
from ironglass.ops import squeeze


@defence(
    title="Feature squeezing",
    paper="xu2018",
    access="labels",
    differentiable=False,
    cost="1",
    lecture="defences: input transformation",
)
def feature_squeezing(
    x: Tensor,
    query: Query,
    *,
    bits: int | None = 4,
    median: int | None = None,
    non_local: tuple[int, int, float] | None = None,
) -> Tensor:
    r"""Round inputs to few levels, take the median of small windows, or average pixels whose surroundings look alike.

    .. math:: x \mapsto \mathrm{round}\bigl(x\,(2^b - 1)\bigr) / (2^b - 1)

    What is given is done in the order of the options. Backwards all of it is taken for the identity.

    Args:
        bits: levels are :math:`2^b`; 1 is a threshold in the middle. None leaves them.
        median: side of the window, pixels; of an even one the pixel is the lower right, and of an even number of values
            the larger middle one is taken. None leaves pixels.
        non_local: sides of the search window and of the block, pixels, both odd, and the strength in 255ths of the
            input range: ``(11, 3, 4)`` or ``(13, 3, 2)`` in the paper. Three channels are taken for colours.

    Returns:
        Inputs of the same shape, within the bounds.

    Raises:
        InputError: if nothing is to be done, or it cannot be done to such samples.
    """
    if bits is None and median is None and non_local is None:
        raise InputError("feature_squeezing has nothing to do", "give bits=, median= or non_local=")
    if bits is not None:
        x = squeeze.reduce_bits(x, bits, query.bounds)
    if median is not None:
        x = squeeze.median(x, median)
    if non_local is not None:
        search, block, strength = non_local
        x = squeeze.denoise(x, search, block, strength, query.bounds)
    return x
