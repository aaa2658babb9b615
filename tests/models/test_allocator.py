from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ironglass.core.errors import InputError
from ironglass.models import allocator

FAULTS = """
import resource
from ironglass.models.allocator import keep_memory
print(keep_memory())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * (96 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(sum(faults() for _ in range(5)))
"""

glibc = pytest.mark.skipif(not allocator._has_glibc(), reason="needs glibc: the settings are its own")


def run(choice: str) -> tuple[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=os.environ | {"IRONGLASS_ALLOCATOR": choice},
        check=True,
        capture_output=True,
        text=True,
    )
    answer, faults = done.stdout.split()
    return answer, int(faults)


@glibc
@pytest.mark.parametrize("choice", ["keep", ""])
def test_kept_memory_is_used_again_without_a_page_fault(choice: str) -> None:
    answer, faults = run(choice)
    assert answer == "True"
    assert faults < 100


@glibc
def test_the_system_allocator_is_left_alone() -> None:
    answer, faults = run("system")
    assert answer == "False"
    assert faults > 100  # with huge pages, 48 a time


def test_other_choices_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONGLASS_ALLOCATOR", "sistem")
    with pytest.raises(InputError, match=r"sistem.*\n.*system"):
        allocator.keep_memory.__wrapped__()


def test_nothing_is_done_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IRONGLASS_ALLOCATOR", raising=False)
    monkeypatch.setattr(allocator, "_has_glibc", lambda: False)
    assert allocator.keep_memory.__wrapped__() is False
