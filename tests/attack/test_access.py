"""Every black-box method runs on whatever answers: a function, a forest, an ONNX session, an endpoint; on a budget."""

from __future__ import annotations

import json
import logging
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.catalogue import Card, catalogue
from ironglass.core.method import get
from ironglass.core.results import AttackResult
from ironglass.core.values import Threat
from ironglass.run import Runner
from nets import images, small_cnn

Array = np.ndarray[Any, Any]
CARDS = [card for card in catalogue().values() if card.decorator == "attack" and card.access in ("labels", "scores")]
BUDGET = 33
NEEDED: dict[str, dict[str, Any]] = {
    "difference_of_means": {"means": images(5, seed=9)},
    "transfer": {"source": small_cnn(seed=7).eval(), "steps": 3},
}
every = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)


class Counted:
    """A function on arrays that counts the samples it is asked about; with ``labels`` it tells those alone."""

    def __init__(self, scores: Callable[[Array], Array]) -> None:
        self.scores, self.asked, self.labels = scores, 0, False

    def __call__(self, x: Array) -> Array:
        self.asked += len(x)
        out = np.asarray(self.scores(x))
        return out.argmax(1) if self.labels else out


def attack_on(card: Card, subject: Counted, x: Tensor) -> AttackResult:
    """Attacks with no more than the card asks for, and holds the ledger against the subject's own count."""
    subject.labels = card.access == "labels"
    model = ig.wrap(subject, classes=5, arrays="numpy")
    model.probe(x)
    y = torch.as_tensor(np.asarray(subject.scores(x.numpy()))).argmax(1)
    subject.asked = 0
    norm = card.norms[0]
    threat = Threat(norm, {"linf": 0.1, "l2": 0.6, "l1": 2.0}[norm])  # type: ignore[arg-type]
    result = Runner(model, max_queries=BUDGET)(get(card.name), x, y, threat, **NEEDED.get(card.name, {}))
    assert isinstance(result, AttackResult)
    rows = int((result.first_success != 1).sum())  # those that were attacked: the judge looks at them once more
    assert int(result.queries.sum()) == subject.asked - rows
    assert int(result.queries.max()) <= BUDGET
    return result


@pytest.fixture(scope="module")
def x() -> Tensor:
    return images(3, seed=4)


@every
def test_a_python_function(card: Card, x: Tensor) -> None:
    weight = np.sin(np.linspace(0, 900, 320)).reshape(64, 5).astype(np.float32)
    attack_on(card, Counted(lambda batch: batch.reshape(len(batch), -1) @ weight), x)


@pytest.fixture(scope="module")
def forest() -> Any:
    ensemble = pytest.importorskip("sklearn.ensemble")
    generator = np.random.default_rng(0)
    rows = generator.random((400, 64), dtype=np.float32)
    return ensemble.RandomForestClassifier(20, random_state=0).fit(rows, (rows.sum(1) * 3).astype(int) % 5)


@every
def test_a_random_forest(card: Card, x: Tensor, forest: Any) -> None:
    attack_on(card, Counted(lambda batch: np.log(forest.predict_proba(batch.reshape(len(batch), -1)) + 1e-9)), x)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    weight = np.sin(np.linspace(0, 900, 320)).reshape(64, 5).astype(np.float32)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", 5])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path: Path = tmp_path_factory.mktemp("onnx") / "linear.onnx"
    onnx.save(model, str(path))
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@every
def test_an_onnx_session(card: Card, x: Tensor, session: Any) -> None:
    attack_on(card, Counted(lambda batch: session.run(None, {"x": batch})[0]), x)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    flask, serving = pytest.importorskip("flask"), pytest.importorskip("werkzeug.serving")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = flask.Flask("endpoint")
    weight = np.sin(np.linspace(0, 900, 320)).reshape(64, 5)

    @app.post("/scores")
    def scores() -> Any:
        rows = np.asarray(flask.request.get_json()["rows"], dtype=np.float64)
        return flask.jsonify((rows @ weight).tolist())

    server = serving.make_server("127.0.0.1", 0, app)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}/scores"
    server.shutdown()
    thread.join()
    server.server_close()


@every
def test_an_endpoint_on_the_network(card: Card, x: Tensor, endpoint: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(batch: Array) -> Array:
        body = json.dumps({"rows": batch.reshape(len(batch), -1).tolist()}).encode()
        request = urllib.request.Request(endpoint, body, {"Content-Type": "application/json"})
        with opener.open(request, timeout=20) as answer:
            return np.asarray(json.load(answer), dtype=np.float32)

    attack_on(card, Counted(ask), x)
