"""What all zeroth-order attacks have in common: they find what is easy, from scores alone, and spend what they may."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ironglass as ig
from attack.oracles import case
from attack.watched import asked, bent
from ironglass.core.catalogue import catalogue
from ironglass.core.method import get
from ironglass.core.values import Norm, Threat
from ironglass.ops import lp
from nets import images, scores_without_autograd

FACTOR: dict[str, float] = {"linf": 4, "l2": 6, "l1": 12, "l0": 12}
LOOPS: dict[str, dict[str, Any]] = {
    "zo_signsgd": {},
    "zo_adamm": {},
    "zo_admm": {},
    "zo_ngd": {},
    "zo_svrg": {},
    "zo_nes": {},
    "bandits": {},
    "simba": {},
    "zoo": {},
    "autozoom": {},
}
ONCE: dict[str, dict[str, Any]] = {"finite_differences": {}, "query_reduced": {"group": 2}}
CARDS = [catalogue()[name] for name in (*LOOPS, *ONCE)]
RUNS = [(card.name, norm) for card in CARDS for norm in card.norms]
runs = pytest.mark.parametrize(("name", "norm"), RUNS, ids=["-".join(run) for run in RUNS])


@runs
@pytest.mark.parametrize("targeted", [False, True])
def test_it_finds_what_is_easy(name: str, norm: Norm, targeted: bool) -> None:
    made = case("interior", 10, lead=1.0, count=4)
    goal = ig.Reach(torch.full((4,), made.near)) if targeted else ig.Avoid(made.y)
    eps = 200.0 if norm == "l0" else FACTOR[norm] * float(made.least(norm).max())
    result = get(name)(made.net, made.x, goal, Threat(norm, eps), max_queries=2500)
    assert isinstance(result, ig.AttackResult)
    assert float(result.success.double().mean()) >= 0.75
    won = result.success
    if norm != "l0":  # where a query of an estimate may reach the goal outside the ball
        assert torch.equal(result.queries[won], result.first_success[won]), "who succeeds leaves at once"
    assert torch.equal(won, result.after.argmax(1) == made.near)


@runs
def test_what_comes_back_is_the_best_that_was_asked(name: str, norm: Norm) -> None:
    shape = (1, 6, 6)
    margin = bent(shape)
    x = 0.4 + 0.2 * torch.rand(1, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    eps = {"linf": 0.05, "l2": 0.3, "l1": 1.0, "l0": 8.0}[norm]
    queries, found = asked(name, x, Threat(norm, eps), margin, 200)
    assert bool(((queries >= 0) & (queries <= 1)).all())
    if norm != "l0":
        assert float(lp.norm(queries - x, norm).max()) <= eps * (1 + 1e-9), "every query is an answer"
        assert float(margin(found)) == pytest.approx(float(margin(queries).max()))
    assert float(margin(found)) > float(margin(x))


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("budget", [1, 2, 3, 5, 50, 333])
def test_the_budget_is_spent_to_the_last_or_nearly(name: str, budget: int) -> None:
    x = 0.4 + 0.2 * torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    queries, _ = asked(name, x, Threat("linf", 0.05), bent((1, 6, 6)), budget)
    assert budget - 2 <= len(queries) <= budget


@pytest.mark.parametrize("name", [*LOOPS, *ONCE])
def test_a_plain_function_and_other_shapes_will_do(name: str) -> None:
    result = get(name)(scores_without_autograd, images(4), torch.arange(4), ig.Linf(0.1), max_queries=60)
    assert isinstance(result, ig.AttackResult)
    weight = torch.linspace(0, 9, 90).cos().reshape(30, 3)
    table = torch.rand(5, 30, generator=torch.Generator().manual_seed(0))
    flat = get(name)(
        lambda x: 5 * x @ weight, table, (table @ weight).argmax(1), ig.Linf(0.2), max_queries=400, **ONCE.get(name, {})
    )
    assert isinstance(flat, ig.AttackResult)
    assert float(flat.success.double().mean()) >= 0.6


@pytest.mark.parametrize("name", ["zo_admm", "zoo", "autozoom", "simba"])
def test_with_an_infinite_eps_a_short_change_is_found(name: str) -> None:
    made = case("interior", 10, lead=1.0, count=4)
    result = get(name)(made.net, made.x, made.y, ig.L2(float("inf")), max_queries=2000)
    assert isinstance(result, ig.AttackResult)
    assert bool(result.success.all())
    assert float((result.distance / made.least("l2")).max()) <= 8


@pytest.mark.parametrize("name", sorted({*LOOPS, *ONCE} - {"zo_admm", "zoo", "autozoom", "simba"}))
def test_others_refuse_an_infinite_eps(name: str) -> None:
    x = torch.rand(2, 1, 6, 6)
    y = (x.flatten(1)[:, :3]).argmax(1)
    with pytest.raises(ValueError, match=f"{name} needs a finite eps"):
        get(name)(lambda x: x.flatten(1)[:, :3], x, y, ig.Linf(float("inf")))


@pytest.mark.parametrize("name", [*LOOPS, *ONCE])
def test_no_query_at_all_is_refused(name: str) -> None:
    x = torch.rand(2, 1, 6, 6)
    y = (x.flatten(1)[:, :3]).argmax(1)
    with pytest.raises(ValueError, match="max_queries=0"):
        get(name)(lambda x: x.flatten(1)[:, :3], x, y, ig.Linf(0.1), max_queries=0)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("zo_adamm", {"beta1": 1.0}, "beta1=1.0"),
    ("zo_admm", {"rho": 0.0}, "rho=0.0"),
    ("zo_ngd", {"damping": 0.0}, "damping=0.0"),
    ("zo_svrg", {"epoch": 0}, "epoch=0"),
    ("zo_nes", {"jitters": 0}, "jitters=0"),
    ("zo_nes", {"setting": "partial"}, "no pictures"),
    ("bandits", {"rate": 0.0}, "rate=0.0"),
    ("simba", {"frequencies": 0.0}, "frequencies=0.0"),
    ("zoo", {"samples": 0}, "samples=0"),
    ("autozoom", {"period": 0}, "period=0"),
    ("finite_differences", {"steps": 0}, "steps=0"),
    ("query_reduced", {"by": "pca"}, "no data"),
    ("query_reduced", {"group": 0}, "group=0"),
    ("zo_signsgd", {"tile": 0}, "tile=0"),
    ("zo_signsgd", {"samples": 0}, "samples=0"),
    ("zo_signsgd", {"radius": 0.0}, "radius=0"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    x = torch.rand(2, 1, 6, 6)
    y = (x.flatten(1)[:, :3]).argmax(1)
    with pytest.raises(ValueError, match=message):
        get(name)(lambda x: x.flatten(1)[:, :3], x, y, ig.Linf(0.1), **options)
