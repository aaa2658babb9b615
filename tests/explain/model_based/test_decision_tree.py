from __future__ import annotations

import pytest
import torch

import ironglass as ig
from ironglass.core.errors import InputError
from tables import cancer, holding, mixed


def test_a_tree_is_that_of_scikit_learn_read_as_paths() -> None:
    trees = pytest.importorskip("sklearn.tree")
    x, y, _ = cancer()
    theirs = trees.DecisionTreeClassifier(max_leaf_nodes=6, random_state=0).fit(x.float().numpy(), y.numpy())
    ours = ig.explain.decision_tree(x, y, leaves=6)
    assert ours.parts == 6
    assert torch.equal(ours(x).argmax(1), torch.from_numpy(theirs.predict(x.float().numpy())).long())
    assert float(ours.counts.sum()) == len(x)


def test_the_path_of_a_row_is_its_explanation() -> None:
    pytest.importorskip("sklearn.tree")
    x, y = mixed()
    tree = ig.explain.decision_tree(x, y, categorical=(1,), leaves=8)
    assert [[leaf] for leaf in tree.leaf(x).tolist()] == holding(tree.paths, x), "exactly one leaf takes a row"
    assert any(condition.sign in "=≠" for path in tree.paths for condition in path)
    assert float((tree(x).argmax(1) == y).double().mean()) > 0.97


def test_a_tree_is_read_leaf_by_leaf() -> None:
    pytest.importorskip("sklearn.tree")
    x, y = mixed()
    tree = ig.explain.decision_tree(x, (x[:, 0] > 0.5).long(), names=("number", "category", "noise"), leaves=2)
    low, high = tree.text()
    assert low.startswith("number ≤ 0.")
    assert ": class 0 (" in low
    assert ": class 1 (" in high
    with pytest.raises(InputError, match="leaves=1"):
        ig.explain.decision_tree(x, y, leaves=1)
