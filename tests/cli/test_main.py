from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from ironglass.cli import show
from ironglass.cli.screen import Screen
from ironglass.core.errors import IronglassError, IronglassWarning

from .conftest import Call, Case

ATTACK = ("attack", "pgd", "net.py:Own", "--data", "data.npz", "--eps", "0.05", "--steps", "2")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("lst",), "did you mean list?"),
        (("attack", "pdg"), "did you mean pgd?"),
        (("attack", "saliency"), "ironglass explain saliency"),
        (("explain", "completeness"), "ironglass show completeness"),
        (("show", "pdg"), "did you mean pgd?"),
        (("show",), "Missing argument"),
        (("attack", "pgd", "--stepz", "4"), "did you mean --steps?"),
        (("attack", "pgd", "--steps", "4.5"), "not a valid integer"),
        (("attack", "pgd", "--eps", "8/0"), "8/255"),
        (("attack", "pgd", "--loss", "hinge"), "'ce'"),
        (("attack", "pgd", "--time", "soon"), "10m"),
        (("attack", "pgd", "--samples", "0"), "--samples"),
        (("attack", "pgd", "--bounds", "1"), "2 values"),
        (("attack", "pgd", "net.py:Own"), "give --data"),
        (("attack", "pgd", "--data", "data.npz"), "name the model"),
        (("attack", "pgd", "net.py:Own", "--data", "absent.npz"), "absent.npz"),
        (("attack", "pgd", "absent.py:Own", "--data", "data.npz"), "absent.py"),
        (("attack", "pgd", "net.py:Owm", "--data", "data.npz"), "did you mean Own?"),
        ((*ATTACK, "--target", "2"), "give 0 to 1"),
        ((*ATTACK, "--save", "adv.npz"), "end it in .safetensors"),
        ((*ATTACK, "--save", "absent/adv.safetensors"), "does not exist"),
        ((*ATTACK, "--save", "."), "end it in"),
        ((*ATTACK, "--device", "nowhere"), "there is no device 'nowhere'"),
        ((*ATTACK, "--config", "absent.toml"), "absent.toml"),
        ((*ATTACK, "--labels", "absent.txt"), "absent.txt"),
        ((*ATTACK, "--bounds", "0,0.1"), "bounds"),
        (("explain", "saliency", "net.py:Own", "--data", "data.npz", "--index", "900"), "count from 0"),
        (("explain", "saliency", "net.py:Own", "--data", "data.npz", "--index", "x"), "0:8"),
        (("audit", "--only", "pdg"), "did you mean pgd?"),
        (("audit", "--format", "htm"), "html"),
        (("audit", "net.py:Own", "--data", "data.npz", "-o", "net.py"), "cannot write"),
        (("report", "absent.json"), "absent.json"),
        (("diff", "net.py", "net.py"), "not an Ironglass report"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_wrong_request_is_2_with_a_message_and_a_fix(
    call: Call, case: Case, words: tuple[str, ...], says: str
) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert not result.stdout
    first, fix = result.stderr.splitlines()[-2:]
    assert first.startswith("ironglass: ")
    assert fix.startswith("  Fix: ")
    assert says in result.stderr


def test_no_words_at_all_show_the_help(call: Call) -> None:
    result = call()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr
    assert "Methods:" in call("attack").stderr


def test_a_method_that_fails_is_3(call: Call, case: Case) -> None:
    result = call("attack", "random_noise", "net.py:breaks", "--data", "data.npz", "--eps", "0.1")
    assert result.exit_code == 3
    assert "I give up" in result.stderr
    assert "our bug" not in result.stderr


def test_a_bug_of_ours_is_3_in_one_line_and_debug_traces_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr(show, "catalogue", fails)
    result = call("list")
    assert result.exit_code == 3
    assert result.stderr.splitlines() == [
        "ironglass: RuntimeError: odd. This is our bug",
        "  Fix: report it with what --debug shows",
    ]
    result = call("list", "--debug")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert "in fails" in result.stderr


def test_a_time_that_is_spent_is_4(call: Call, case: Case) -> None:
    import numpy as np

    stored = np.load("data.npz")
    np.savez("long.npz", x=np.tile(stored["x"], (10, 1)), y=np.tile(stored["y"], 10))
    words = ("attack", "fgsm", "net.py:Own", "--data", "long.npz", "--eps", "0.05", "--time", "0.000001s")
    result = call(*words)
    assert result.exit_code == 4
    assert "after 256 of" in result.stderr
    assert not result.stdout


def test_an_interrupt_is_130(call: Call, case: Case) -> None:
    result = call("attack", "random_noise", "net.py:stopped", "--data", "data.npz", "--eps", "0.1", "--json")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert not result.stdout


def test_warnings_are_one_clean_line_each(call: Call, case: Case) -> None:
    words = ("attack", "random_noise", "net.py:softmax", "--data", "data.npz", "--eps", "2", "-q")
    lines = call(*words).stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("ironglass: warning: ") for line in lines)
    assert any("probabilities" in line for line in lines)
    assert any("did you mean eps = 2/255?" in line for line in lines)


def test_a_warning_is_said_once_and_others_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> None:
        with Screen().hears_warnings():
            warnings.warn("ours", IronglassWarning, stacklevel=1)
            warnings.warn("ours", IronglassWarning, stacklevel=1)
            warnings.warn("theirs", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="theirs"):
        warn()
    assert capsys.readouterr().err == "ironglass: warning: ours\n"


def test_quiet_leaves_results_alone(call: Call, case: Case) -> None:
    assert call(*ATTACK).stderr
    result = call(*ATTACK, "--quiet")
    assert not result.stderr
    assert result.stdout


def test_progress_is_plain_lines_where_there_is_no_terminal(call: Call, case: Case) -> None:
    assert f"[{len(case.y)}/{len(case.y)}] pgd" in call(*ATTACK).stderr.splitlines()


def test_what_a_users_file_prints_does_not_reach_stdout(call: Call, case: Case) -> None:
    import json

    result = call("attack", "pgd", "net.py:talks", "--data", "data.npz", "--eps", "0.05", "--steps", "2", "--json")
    assert json.loads(result.stdout)["model"] == "talks"
    assert "a word from the user's file" in result.stderr


def test_colour_is_for_terminals_and_can_be_refused(call: Call, case: Case) -> None:
    assert "\x1b[" in call(*ATTACK, color=True).stdout
    for result in (
        call(*ATTACK),
        call(*ATTACK, "--no-color", color=True),
        call(*ATTACK, color=True, NO_COLOR="1"),
        call("attack", "pdg", color=True, NO_COLOR="1"),
    ):
        assert "\x1b[" not in result.stdout + result.stderr
    assert "\x1b[" in call(*ATTACK, color=True, NO_COLOR="").stdout


NASTY = "da ta\x1b[31m\u202e\n$(touch x);'\"&.npz"


def test_hostile_file_names_cannot_steer_the_terminal(call: Call, case: Case) -> None:
    import json

    Path(NASTY).write_bytes(Path("data.npz").read_bytes())
    words = ("attack", "pgd", "net.py:Own", "--data", NASTY, "--eps", "0.05", "--steps", "2")
    result = call(*words, "--save", NASTY.replace(".npz", ".safetensors"))
    assert result.exit_code == 0, result.stderr
    wrong = call(*words[:4], f"no{NASTY}", *words[5:])
    assert wrong.exit_code == 2
    for text in (result.stdout, result.stderr, wrong.stderr):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert len(wrong.stderr.splitlines()) == 2
    assert json.loads(call(*words, "--json").stdout)["data"] == NASTY.removesuffix(".npz")
    assert not Path("x").exists()


def test_names_that_are_not_utf8_can_be_said(call: Call, case: Case) -> None:
    result = call("report", os.fsdecode(b"bad\xff.json"))
    assert result.exit_code == 2
    assert "bad\\udcff.json" in result.stderr


def test_a_reader_that_goes_away_is_no_failure(case: Case) -> None:
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen([sys.executable, "-m", "ironglass", "list"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 141
    assert not said


def test_errors_carry_their_codes() -> None:
    assert {each.__name__: each.exit_code for each in IronglassError.__subclasses__()} == {
        "InputError": 2,
        "MethodFailed": 3,
        "BudgetExceeded": 4,
    }
