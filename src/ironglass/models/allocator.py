"""Memory that a process keeps: what large tensors cost where glibc hands each one back to the kernel."""

from __future__ import annotations

import ctypes
import os
from functools import cache

from ironglass.core.errors import InputError, suggest

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_SETTINGS = (
    (_M_MMAP_MAX, 0),  # no mapping of its own for a large block
    (_M_TRIM_THRESHOLD, -1),  # never shrink the heap
    (_M_TOP_PAD, 64 << 20),  # grow it by 64 MiB at a time
)


@cache
def keep_memory() -> bool:
    """Tells glibc to keep freed memory for the next tensor; once a process, for the whole process.

    By default glibc maps every block of 32 MiB or more anew, unmaps it when it is freed, and trims its heap. Each pass
    of a network then touches fresh pages, and the kernel must find and clear every one of them: on a CPU that may take
    longer than the arithmetic. With these settings freed memory stays in the heap and is used again. The price: the
    process holds on to its peak of memory until it ends. Results do not depend on it.

    Set the environment variable ``IRONGLASS_ALLOCATOR=system`` to leave the process as it is. Nothing is done where
    the C library is not glibc, and nothing comes of it where another ``malloc`` is preloaded.

    Returns:
        Whether the settings are in force.

    Raises:
        InputError: if ``IRONGLASS_ALLOCATOR`` is neither ``keep`` nor ``system``.
    """
    choice = os.environ.get("IRONGLASS_ALLOCATOR") or "keep"
    if choice not in ("keep", "system"):
        raise InputError(f"IRONGLASS_ALLOCATOR is '{choice}'", suggest(choice, ("keep", "system")))
    if choice == "system" or not _has_glibc():
        return False
    accepted = [ctypes.CDLL(None).mallopt(option, value) == 1 for option, value in _SETTINGS]
    return all(accepted)


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):  # Windows; a C library that does not know the name
        return False
