from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ironglass.core.errors import InputError, MissingExtra
from ironglass.models.data import load_data
from ironglass.models.sklearn_model import sklearn_model
from ironglass.models.sklearn_torch import as_torch
from ironglass.models.sources import load_model

pytest.importorskip("sklearn", reason="needs the sklearn extra")
from sklearn.datasets import make_classification
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestCentroid, RadiusNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, RobustScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC, NuSVC

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
LINEAR = [LogisticRegression(), RidgeClassifier(), LinearSVC(), Perceptron(), LinearDiscriminantAnalysis()]
PERCEPTRONS = [
    MLPClassifier(hidden_layer_sizes=(6, 5), activation=activation, max_iter=30, random_state=0)
    for activation in ("relu", "tanh", "logistic", "identity")
]
ONE_VS_REST = SGDClassifier(loss="log_loss", random_state=0)
BINARY = [SVC(), SVC(kernel="linear"), SVC(gamma=0.03), NuSVC(), LogisticRegression(solver="liblinear")]


def blobs(classes: int, features: int = 6, samples: int = 120) -> tuple[Any, Any]:
    x, y = make_classification(
        samples, features, n_informative=4, n_redundant=0, n_classes=classes, n_clusters_per_class=1, random_state=0
    )
    return 3 * x + np.arange(features), y


def parity(estimator: Any, x: Any) -> None:
    """The torch network against scikit-learn's own decision function and probabilities, in float64."""
    net = as_torch(estimator)
    assert net is not None
    logits = net(torch.from_numpy(x))
    assert np.array_equal(estimator.classes_[logits.argmax(1)], estimator.predict(x))
    if hasattr(estimator, "predict_proba"):
        np.testing.assert_allclose(logits.softmax(1), estimator.predict_proba(x), rtol=1e-9, atol=1e-9)
    if hasattr(estimator, "decision_function") and not isinstance(net[-1], torch.nn.LogSigmoid):
        decisions = estimator.decision_function(x)
        own = logits[:, 1] - logits[:, 0] if decisions.ndim == 1 else logits
        np.testing.assert_allclose(own, decisions, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("estimator", [*LINEAR, *PERCEPTRONS, ONE_VS_REST], ids=lambda e: type(e).__name__)
def test_classifiers_in_torch_equal_their_estimator(estimator: Any, classes: int) -> None:
    x, y = blobs(classes)
    parity(estimator.fit(x, y), x)


@pytest.mark.parametrize("estimator", BINARY, ids=lambda e: type(e).__name__)
def test_binary_classifiers_in_torch_equal_their_estimator(estimator: Any) -> None:
    x, y = blobs(2)
    parity(estimator.fit(x, y), x)


@pytest.mark.parametrize(
    "prefix",
    [
        [StandardScaler()],
        [StandardScaler(with_mean=False)],
        [StandardScaler(with_std=False)],
        [MinMaxScaler((-1, 2))],
        [MinMaxScaler(clip=True)],
        [MaxAbsScaler()],
        [RobustScaler()],
        [StandardScaler(), "passthrough", PCA(3, whiten=True)],
        [make_pipeline(StandardScaler(), PCA(4))],
    ],
    ids=str,
)
@pytest.mark.parametrize("last", [LogisticRegression(), SVC()], ids=lambda e: type(e).__name__)
def test_scalers_melt_into_the_network(prefix: list[Any], last: Any) -> None:
    x, y = blobs(2)
    pipeline = make_pipeline(*prefix, last).fit(x[:60], y[:60])
    parity(pipeline, x)  # the other half reaches beyond the fitted range


def test_a_scaled_linear_classifier_is_one_linear_layer() -> None:
    x, y = blobs(3)
    net = as_torch(make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y))
    assert net is not None
    assert [type(layer).__name__ for layer in net] == ["Flatten", "Linear"]


def test_gradients_point_where_the_decision_grows() -> None:
    x, y = blobs(2)
    pipeline = make_pipeline(StandardScaler(), SVC()).fit(x, y)
    net = as_torch(pipeline)
    assert net is not None
    points = torch.from_numpy(x[:5]).requires_grad_()
    logits = net(points)
    (grad,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), points)
    step = 1e-6
    for feature in range(x.shape[1]):
        moved = x[:5].copy()
        moved[:, feature] += step
        slope = (pipeline.decision_function(moved) - pipeline.decision_function(x[:5])) / step
        np.testing.assert_allclose(grad[:, feature], slope, rtol=1e-3, atol=1e-6)


def test_what_torch_cannot_express_stays_scores_or_labels() -> None:
    x, y = blobs(3)
    batch = torch.from_numpy(x).float()
    options: dict[str, Any] = {"bounds": (-30, 30)}
    forest = RandomForestClassifier(5, random_state=0).fit(x, y)
    model = sklearn_model(forest, **options)
    assert (model.access, model.name) == ("scores", "RandomForestClassifier (log-probabilities)")
    expected = forest.predict_proba(batch.numpy()).clip(1e-12)
    np.testing.assert_allclose(model.scores(batch).exp(), expected, rtol=1e-6)
    machine = SVC().fit(x, y)
    model = sklearn_model(machine, **options)
    assert (model.access, model.name) == ("scores", "SVC")
    np.testing.assert_allclose(model.scores(batch), machine.decision_function(batch.numpy()), rtol=1e-6)
    for estimator in (NearestCentroid(), make_pipeline(Normalizer(), LogisticRegression())):
        model = sklearn_model(estimator.fit(x, y), **options)
        assert np.array_equal(model.labels(batch), estimator.predict(batch.numpy()))
    assert sklearn_model(NearestCentroid().fit(x, y)).access == "scores"  # until the first samples are seen
    centroid = sklearn_model(NearestCentroid().fit(x, y), **options)
    centroid.probe(batch)
    assert centroid.access == "labels"


def test_class_names_and_numbers_need_not_be_indices() -> None:
    x, y = blobs(3)
    words = np.array(["b", "c", "a"])[y]
    model = sklearn_model(LogisticRegression().fit(x, words), bounds=(-30, 30))
    assert model.names == ("a", "b", "c")
    labels = RadiusNeighborsClassifier(1e3).fit(x, 10 * y)
    assert sklearn_model(labels, bounds=(-30, 30)).names == ("0", "10", "20")


def test_a_model_of_raw_units_is_fed_scaled_tables() -> None:
    from sklearn.datasets import load_breast_cancer

    raw, y = load_breast_cancer(return_X_y=True)
    data = load_data("sklearn:breast_cancer")
    assert data.scale is not None
    mean, std = data.scale
    np.testing.assert_allclose((data.x.double() - mean) / std, raw, rtol=1e-4, atol=1e-4)
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(raw, y)
    forest = RandomForestClassifier(5, random_state=0).fit(raw, y)
    for estimator in (linear, forest):
        model = sklearn_model(estimator, mean=mean.tolist(), std=std.tolist())
        agreed = (model.labels(data.x).numpy() == estimator.predict(raw)).mean()
        assert agreed > 0.99  # float32 rounding may move a sample across a tree's threshold


def test_pictures_are_flattened() -> None:
    from sklearn.datasets import load_digits

    raw, y = load_digits(return_X_y=True)
    data = load_data("sklearn:digits")
    estimator = LogisticRegression(max_iter=20).fit(raw, y)
    model = sklearn_model(estimator, std=1 / 16, shape=(1, 8, 8))
    np.testing.assert_allclose(model.scores(data.x[:9]), estimator.decision_function(raw[:9]), rtol=1e-9)


def test_nothing_is_drawn() -> None:
    x, y = blobs(2)
    estimator = SVC().fit(x, y)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    as_torch(estimator)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index]  # noqa: NPY002


def test_a_search_stands_for_its_best_estimator() -> None:
    x, y = blobs(2)
    parity(GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2).fit(x, y), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x, y: LinearRegression().fit(x, y), "LinearRegression is no scikit-learn classifier"),
        (lambda x, y: LogisticRegression(), "is not fitted"),
        (lambda x, y: object(), "object is no scikit-learn classifier"),
        (lambda x, y: RandomForestClassifier(2).fit(x, np.stack([y, y], 1)), "several labels a sample"),
        (lambda x, y: MLPClassifier(max_iter=2).fit(x, np.stack([y > 0, y > 1], 1)), "several labels a sample"),
        (lambda x, y: SVC(decision_function_shape="ovo").fit(x, y), "set decision_function_shape='ovr'"),
    ],
)
def test_other_estimators_are_refused(make: Any, message: str) -> None:
    x, y = blobs(3)
    with pytest.raises(InputError, match=message):
        sklearn_model(make(x, y))


def test_wrong_class_counts_are_errors() -> None:
    x, y = blobs(3)
    estimator = LogisticRegression().fit(x, y)
    with pytest.raises(InputError, match="tells 3 classes apart, 7 were declared"):
        sklearn_model(estimator, classes=7)
    with pytest.raises(InputError, match="2 labels for 3 classes"):
        sklearn_model(estimator, labels=("a", "b")).probe(torch.rand(2, 6))


def test_skops_files_are_loaded_and_strangers_refused(tmp_path: Path) -> None:
    io = pytest.importorskip("skops.io", reason="needs the sklearn extra")
    x, y = blobs(2)
    path = tmp_path / "model.skops"
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    io.dump(estimator, path)
    model = load_model(path, bounds=(-30, 30))
    scores = model.scores(torch.from_numpy(x))
    np.testing.assert_allclose(scores[:, 1] - scores[:, 0], estimator.decision_function(x), rtol=1e-9)
    assert (model.access, model.name) == ("training", "model")
    io.dump(Stranger().fit(x, y), path)
    with pytest.raises(InputError, match=r"not known to be safe: .*Stranger"):
        load_model(path)
    assert load_model(path, trust_pickle=True, bounds=(-30, 30)).classes == 2
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot read"):
        load_model(path)


def test_pickles_are_refused_unless_trusted(tmp_path: Path) -> None:
    x, y = blobs(2)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(LogisticRegression().fit(x, y)))
    with pytest.raises(InputError, match=r"can run any code when it is read\n.*skops.io.dump"):
        load_model(path)
    assert load_model(path, trust_pickle=True).classes == 2


def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.skops").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "skops", None)
    with pytest.raises(MissingExtra, match=r"ironglass\[sklearn\]"):
        load_model(tmp_path / "model.skops")


class Stranger(LogisticRegression):  # type: ignore[misc]
    """An estimator that skops does not know."""
