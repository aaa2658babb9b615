"""Games whose matrix is known: linear models in closed form, and matrices written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import ironglass as ig
from bench.linear import distance, halves, linear
from ironglass.bench.payoff import Game, settled
from ironglass.core.errors import InputError
from ironglass.core.findings import Matrix
from ironglass.core.statistics import wilson
from metric.broken import CNN, Around


def by_hand(alive: Tensor, white: Tensor | None = None, names: tuple[str, ...] = ()) -> Game:
    """A game of that matrix; every sample is right without attack."""
    attacks, defences, count = alive.shape
    white = torch.ones(attacks, defences, dtype=torch.bool) if white is None else white
    return settled(
        torch.zeros(count, 2),
        torch.zeros(count, dtype=torch.long),
        ig.Linf(0.1),
        names or [f"attack {i}" for i in range(attacks)],
        [f"defence {i}" for i in range(defences)],
        alive,
        torch.ones(defences, count, dtype=torch.bool),
        white,
    )


def test_cells_of_linear_models_are_their_closed_form() -> None:
    first, second, x, y = halves()
    models = {"first": linear(first), "wide": linear(first + 0.3 * second)}
    eps = 0.1
    found = ig.bench.game(models, x, y, ig.Linf(eps), attacks=("fgsm", "pgd"), steps=20, transfer=False)
    exact = [float((distance(weight, x, "linf") > eps).double().mean()) for weight in (first, first + 0.3 * second)]
    assert 0.1 < exact[0] < 0.9
    assert exact[0] != exact[1]
    assert found.row_names == ("fgsm", "pgd")
    assert found.values[0].tolist() == exact
    assert found.values[1].tolist() == exact
    kept = round(exact[0] * len(x))
    assert (float(found.low[0, 0]), float(found.high[0, 0])) == pytest.approx(wilson(kept, len(x)))
    assert found.value == pytest.approx(max(exact))
    assert found.best == {name: found.column_names[exact.index(max(exact))] for name in ("worst case", "mean")} | {
        "clean": "first"
    }
    assert bool(found.white.all())


def test_between_orthogonal_directions_nothing_transfers_and_to_a_twin_everything() -> None:
    first, second, x, y = halves()
    fgsm = ig.attack.fgsm
    found = ig.bench.game({"a": linear(first), "b": linear(second)}, x, y, ig.Linf(0.1), attacks=(fgsm,))
    assert found.row_names == ("fgsm", "fgsm (transferred)")
    assert found.values[1].tolist() == [1, 1]
    assert found.white.tolist() == [[True, True], [False, False]]
    twins = ig.bench.game({"a": linear(first), "b": linear(first)}, x, y, ig.Linf(0.1), attacks=(fgsm,))
    assert torch.equal(twins.values[0], twins.values[1])


def test_a_mask_of_one_sample_is_for_all_of_them() -> None:
    first, _, x, y = halves()
    for mask, breaks in ((first == 0, False), (first != 0, True)):
        found = ig.bench.game(linear(first), x, y, ig.Linf(0.1, mask), attacks=("fgsm",))
        assert (float(found.values[0, 0]) < 1) == breaks


class Cut(torch.nn.Module):
    """A defence that hides the gradient of the network it stands before, and names that network."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net
        self.undefended = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.detach() + 0 * x)


def test_a_defence_that_hides_its_gradient_is_seen_from_outside() -> None:
    first, second, x, y = halves()
    net, other = linear(first), linear(second)
    models = {"hidden": Cut(net).eval(), "other": other}
    found = ig.bench.game(models, x, y, ig.Linf(0.1), attacks=("fgsm",))
    assert found.row_names == ("fgsm", "fgsm (unaware)", "fgsm (transferred)")
    exact = float((distance(first, x, "linf") > 0.1).double().mean())
    assert float(found.values[0, 0]) == 1, "no gradient, no step"
    assert float(found.values[1, 0]) == pytest.approx(exact)
    assert float(found.values[1, 1]) == float(found.values[0, 1]), "the other has no defence to be unaware of"
    assert found.white.tolist() == [[True, True], [False, True], [False, False]]
    assert found.table().rows[1][1].endswith("grey")
    assert found.table().rows[1][2] == "—"
    assert any(note.startswith("hidden: fgsm through it misses") for note in found.notes)
    assert not any(note.startswith("other:") for note in found.notes)


def test_what_is_made_on_the_undefended_model_is_made_once() -> None:
    first, _, x, y = halves()
    net = linear(first)
    both = ig.bench.game({"bare": net, "one": Cut(net).eval()}, x, y, ig.Linf(0.1), attacks=("fgsm",), transfer=False)
    two = ig.bench.game(
        {"bare": net, "one": Cut(net).eval(), "two": Cut(net).eval()},
        x,
        y,
        ig.Linf(0.1),
        attacks=("fgsm",),
        transfer=False,
    )
    assert both.cost.backward == 2 * len(x), "one attack on each column; the undefended one is a column"
    wrapped = ig.wrap(linear(first))
    twin = ig.bench.game(
        {"bare": wrapped, "one": Cut(net).eval()}, x, y, ig.Linf(0.1), attacks=("fgsm",), transfer=False
    )
    assert twin.cost.backward == 2 * len(x), "the same network, however it is brought"
    assert two.cost.backward == 3 * len(x)


def test_pennies_are_worth_half_and_a_draw_keeps_it_against_a_choice_for_each_sample() -> None:
    alive = torch.ones(2, 2, 30, dtype=torch.bool)
    alive[0, 0], alive[1, 1] = False, False
    found = by_hand(alive)
    assert found.value == pytest.approx(0.5)
    assert found.attack_mix.tolist() == pytest.approx([0.5, 0.5])
    assert found.defence_mix.tolist() == pytest.approx([0.5, 0.5])
    assert float(found.drawn[0]) == pytest.approx(0.5)
    assert found.worst.sum() == 0, "either defence alone falls to one of the two on every sample"
    assert list(found.dominated_attacks) == list(found.dominated_defences) == []


@pytest.mark.parametrize("seed", range(8))
def test_the_value_lies_between_the_pure_strategies_and_above_the_best_attack_on_each_sample(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    odds = torch.rand(4, 3, 1, generator=generator)
    found = by_hand(torch.rand(4, 3, 60, generator=generator) < odds)
    rates = found.values.double()
    assert rates.amin(0).max() - 1e-9 <= found.value <= rates.amax(1).min() + 1e-9
    assert found.worst.double().mean(1).max() - 1e-9 <= float(found.drawn[0]) <= found.value + 1e-9
    for numbers in (found.worth, found.drawn):
        value, low, high = numbers.tolist()
        assert low <= value <= high
    assert bool((found.worst.double().mean(1)[None] <= rates + 1e-12).all())


def test_an_attack_that_breaks_no_more_than_another_is_dominated_and_not_played() -> None:
    strong = torch.rand(3, 50, generator=torch.Generator().manual_seed(1)) < 0.5
    weak = strong | (torch.rand(3, 50, generator=torch.Generator().manual_seed(2)) < 0.5)
    found = by_hand(torch.stack([weak, strong]))
    (loser,) = found.dominated_attacks
    assert (loser.strategy, loser.pure, loser.by.tolist()) == (0, True, [0, 1])
    assert found.attack_mix.tolist() == pytest.approx([0, 1])
    assert "Dominated attacks, which nobody needs: attack 0." in found.notes
    assert found.strategies().rows[0] == ("attack 0", "attack", "0%", "attack 1")


def test_a_game_draws_its_matrix_and_is_saved_without_a_pickle(tmp_path: Path) -> None:
    alive = torch.rand(2, 3, 20, generator=torch.Generator().manual_seed(0)) < 0.5
    found = by_hand(alive, torch.tensor([[True] * 3, [False] * 3]), ("pgd", "pgd (transferred)"))
    (heat,) = found.charts()
    assert isinstance(heat, Matrix)
    assert heat.rows == ("pgd", "pgd (transferred)", "best attack on each sample", "no attack")
    assert heat.apart == 2
    assert [cell.value for cell in heat.cells[0]] == found.values[0].tolist()
    assert heat.cells[1][0].line.endswith("grey")
    assert [cell.value for cell in heat.cells[2]] == pytest.approx(found.worst.double().mean(1).tolist())
    assert found._repr_png_()[:4] == b"\x89PNG"  # type: ignore[index]
    found.save(tmp_path / "game.safetensors")
    back = ig.load(tmp_path / "game.safetensors")
    assert isinstance(back, Game)
    assert back.table() == found.table()
    assert back.strategies() == found.strategies()
    assert tuple(back.notes) == tuple(found.notes)
    assert torch.equal(back.alive, found.alive)


def test_a_file_that_names_a_class_of_another_package_is_not_imported(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for home, kind in (("os", "system"), ("ironglass.core.values", "Threat"), ("ironglass.nowhere", "Study")):
        save_file({"x": torch.zeros(1)}, tmp_path / "f.safetensors", metadata={"home": home, "kind": kind})
        with pytest.raises(InputError, match="holds no Ironglass result"):
            ig.load(tmp_path / "f.safetensors")


def test_digits_an_adversarially_trained_network_wins_the_game(
    pair: dict[str, CNN], held_out: tuple[Tensor, Tensor]
) -> None:
    x, y = held_out
    hidden = Around(pair["standard"], lambda x: x.detach() + 0 * x).eval()
    models: dict[str, torch.nn.Module] = {**pair, "hidden": hidden}
    found = ig.bench.game(models, x, y, ig.Linf(0.15), attacks=("fgsm", "pgd"), steps=10)
    assert found.best["worst case"] == "robust"
    assert found.defence_mix.argmax() == 1
    assert found.value >= float(found.worst.double().mean(1).max()) - 1e-9
    assert bool((found.alive <= found.clean).all()), "an attack mends nothing"
    assert any(note.startswith("hidden:") for note in found.notes)
    again = ig.bench.game(models, x, y, ig.Linf(0.15), attacks=("fgsm", "pgd"), steps=10)
    assert torch.equal(again.alive, found.alive)
    assert again.worth.tolist() == found.worth.tolist()


def test_a_random_defence_is_judged_by_most_draws_and_not_by_a_lucky_one(
    pair: dict[str, CNN], held_out: tuple[Tensor, Tensor]
) -> None:
    (x, y), net = (part[:24] for part in held_out), ig.wrap(pair["standard"])
    models = {"plain": net, "random": ig.defend.input_randomization(net)}
    found, again = (
        ig.bench.game(models, x, y, ig.Linf(0.1), attacks=("fgsm", "pgd"), steps=5, transfer=False) for _ in range(2)
    )
    assert torch.equal(found.alive, again.alive)
    white, grey = found.values[2, 1], found.values[3, 1]
    assert found.row_names[2:] == ("pgd", "pgd (unaware)")
    assert float(white) <= float(grey), "who attacks through it, on the mean over draws, breaks no less"
    model = models["random"]
    assert torch.equal(found.clean[1], model.verdict(x, x, ig.Avoid(y))[1] <= 0.5)


def test_wrong_requests_are_refused() -> None:
    first, _, x, y = halves()
    net = linear(first)
    with pytest.raises(InputError, match="given twice"):
        ig.bench.game(net, x, y, ig.Linf(0.1), attacks=("pgd", "pgd"))
    with pytest.raises(InputError, match="no attacks"):
        ig.bench.game(net, x, y, ig.Linf(0.1), attacks=())
    with pytest.raises(InputError, match="needs a finite eps"):
        ig.bench.game(net, x, y, ig.Linf(float("inf")))
    with pytest.raises(InputError, match="takes a threat in"):
        ig.bench.game(net, x, y)
    twice = ig.bench.game(net, x, y, ig.Linf(0.1), attacks=("pgd", ig.attack.pgd.with_(steps=3)))
    assert twice.row_names == ("pgd", "pgd steps=3")
