from __future__ import annotations

import pytest
import torch

import ironglass as ig
from ironglass.core.errors import InputError
from tables import cancer, mixed


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    linear, datasets = (pytest.importorskip(f"sklearn.{name}") for name in ("linear_model", "datasets"))
    wine = datasets.load_wine()
    three = (torch.from_numpy(wine.data), torch.from_numpy(wine.target))
    for (x, y), ridge in ((cancer()[:2], 4.0), (three, 2.0)):  # of two classes theirs has one row of weights, not two
        scaled = (x - x.mean(0)) / x.std(0, correction=0)
        theirs = linear.LogisticRegression(C=1 / 2.0, tol=1e-8, max_iter=10_000).fit(scaled.numpy(), y.numpy())
        ours = ig.explain.linear_model(x, y, ridge=ridge)
        assert torch.allclose(ours(x).softmax(1), torch.from_numpy(theirs.predict_proba(scaled.numpy())), atol=2e-4)


def test_terms_and_intercept_add_up_to_the_logits() -> None:
    x, y = mixed()
    model = ig.explain.linear_model(x, y, categorical=(1,))
    terms = model.terms(x)
    assert terms.shape == (600, 2, 3)
    assert torch.allclose(model.bias + terms.sum(2), model(x), rtol=1e-12, atol=1e-12)
    assert float(terms.mean(0).abs().max()) < 1e-9, "a term is counted from its mean"


def test_a_coefficient_a_category_and_column_is_read() -> None:
    x, y = mixed()
    assert ig.explain.linear_model(x, y).parts == 3
    assert ig.explain.linear_model(x, y, categorical=(1,)).parts == 5
    with pytest.raises(InputError, match="ridge=0"):
        ig.explain.linear_model(x, y, ridge=0)
