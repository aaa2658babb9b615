from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ironglass.core.diagnosis import Check, Diagnosis, Study
from ironglass.core.errors import InputError
from ironglass.core.results import load
from ironglass.core.statistics import wilson
from ironglass.core.values import Linf
from ironglass.run.judge import join, part

CHECKS = (
    Check("cause", "It is so", "Mend it", cause=True),
    Check("share", "Many are so", "Mend them", most=0.1, least=2),
    Check("idle", "Nobody knows", "Ask"),
)


def diagnosis(cause: list[int], share: list[int]) -> Diagnosis:
    count = len(cause)
    x = torch.rand(count, 3)
    return Diagnosis(
        x=x,
        method="by_hand",
        y=torch.zeros(count, dtype=torch.long),
        threat=Linf(0.1),
        checks=CHECKS,
        evidence=torch.tensor([cause, share, [-1] * count], dtype=torch.int8).T.contiguous(),
        adversarial=x,
        broken=torch.zeros(count, dtype=torch.bool),
    )


def test_a_cause_is_seen_on_one_sample_and_a_share_needs_its_interval_above_what_is_allowed() -> None:
    found = diagnosis([0] * 19 + [1], [1] * 3 + [0] * 16 + [-1])
    assert found.verdict("cause") == "alarm"
    assert found.counts("share") == (3, 19)
    assert wilson(3, 19)[0] < 0.1
    assert found.verdict("share") == "clear"
    assert diagnosis([0] * 20, [1] * 6 + [0] * 14).verdict("share") == "alarm"
    assert wilson(6, 20)[0] > 0.1
    assert diagnosis([0], [1]).verdict("share") == "clear", "one sample is not enough"
    assert wilson(1, 1)[0] > 0.1


def test_what_was_not_asked_is_not_run() -> None:
    found = diagnosis([-1, -1], [0, 0])
    assert [found.verdict(check.name) for check in CHECKS] == ["not run", "clear", "not run"]
    assert found.value("cause") is None
    assert found.value("share") == 0
    assert found.alarms == ()
    with pytest.raises(InputError, match=r"no check 'caus'\n.*did you mean cause"):
        found.verdict("caus")


def test_alarms_come_in_order_and_causes_are_some_of_them() -> None:
    found = diagnosis([1] * 5, [1] * 5)
    assert found.alarms == ("cause", "share")
    assert found.causes == ("cause",)


def test_parts_joined_are_the_whole() -> None:
    whole = diagnosis([1, 0, -1, 0], [0, 1, 1, 1])
    parts = [part(whole, slice(0, 1)), part(whole, slice(1, 4))]
    back = join(parts)
    assert isinstance(back, Diagnosis)
    assert torch.equal(back.evidence, whole.evidence)
    assert back.alarms == whole.alarms == ("cause", "share")
    assert parts[0].alarms == ("cause",)


def test_its_table_says_what_an_alarm_means_and_what_to_do() -> None:
    rows = diagnosis([1] * 4, [0] * 4).table().rows
    assert rows[0] == ("cause", "alarm", "4 of 4", "51% to 100%", "0%", "It is so", "Mend it")
    assert rows[1][:2] == ("share", "clear")
    assert rows[1][5:] == ("No sign that many are so", "")
    assert rows[2] == ("idle", "not run", "—", "—", "0%", "Not asked of any sample", "Ask")


def study() -> Study:
    return Study(
        x=torch.rand(4, 2),
        method="by_hand",
        y=torch.zeros(4, dtype=torch.long),
        row_names=("a", "b"),
        column_names=("one", "two"),
        values=torch.tensor([[0.5, 1.0], [0.25, 0.0]]),
        low=torch.tensor([[0.25, 0.5], [0.125, 0.0]]),
        high=torch.tensor([[0.75, 1.0], [0.375, 1.0]]),
        counts=torch.tensor([[4, 4], [8, 0]]),
        caption="Shares",
        row_head="row",
    )


def test_a_study_draws_itself_and_leaves_out_what_it_does_not_know() -> None:
    table = study().table()
    assert table.columns == ("row", "one", "two")
    assert table.rows == (("a", "50% [25, 75]", "100% [50, 100]"), ("b", "25% [12, 38]", "—"))
    bars = study().bars("two")
    assert (bars.labels, bars.values) == (("a",), ((1.0,),))


def test_a_study_is_saved_and_read_back(tmp_path: Path) -> None:
    study().save(tmp_path / "s.safetensors")
    back = load(tmp_path / "s.safetensors")
    assert isinstance(back, Study)
    assert back.threat is None
    assert back.table() == study().table()
