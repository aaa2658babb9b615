from __future__ import annotations

import pickle

from ironglass.core.errors import AccessError, BudgetExceeded, InputError, IronglassError, MissingExtra, extra, suggest


def test_an_error_names_the_fix_and_its_exit_code() -> None:
    error = InputError("x is wrong", "do y")
    assert str(error) == "x is wrong\n  Fix: do y"
    codes = [IronglassError("").exit_code, AccessError("").exit_code, BudgetExceeded("").exit_code]
    assert codes == [3, 2, 4]


def test_an_error_crosses_processes_whole() -> None:
    for kind in (IronglassError, InputError, MissingExtra, BudgetExceeded):
        back = pickle.loads(pickle.dumps(kind("what", "how")))
        assert (type(back), back.message, back.fix) == (kind, "what", "how")


def test_suggestions_name_the_nearest_word() -> None:
    assert suggest("pdg", ["fgsm", "pgd"]) == "did you mean pgd?"
    assert suggest("zzz", ["b", "a"]) == "known: a, b"
    assert "ironglass[onnx]" in extra("onnx", "onnxruntime").fix
