"""Explanations of text and of sound: exact on networks whose evidence is known, and on real sentences and digits."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.method import Explain
from ironglass.ops.training import fit
from ironglass.ops.views import Audio, Text

LENGTH, RATE = 4096, 8000


class Words(nn.Module):
    """Adds a weight a word; word 0 is the padding and weighs nothing."""

    def __init__(self, words: int, classes: int = 2) -> None:
        super().__init__()
        self.weigh = nn.EmbeddingBag(words, classes, mode="sum", padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.weigh(x.long())


class Spectral(nn.Module):
    """Scores of sound: linear in the logarithms of its energy in stretches of time and bands of frequency."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(256))
        self.head = nn.Linear(32 * 32, classes)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.stft(x[:, 0], 256, 128, window=self.window, return_complex=True).abs().square()
        energy = F.adaptive_avg_pool2d(spectrum[:, None], 32).flatten(1)
        return self.head((energy + 1e-4).log() / 4)


class Beep(nn.Module):
    """Hears the energy between two times in seconds and two frequencies in hertz."""

    def __init__(self, times: tuple[float, float], tones: tuple[float, float]) -> None:
        super().__init__()
        self.times, self.tones = times, tones

    def forward(self, x: Tensor) -> Tensor:
        start, stop = (round(time * RATE) for time in self.times)
        spectrum = torch.fft.rfft(x[:, 0, start:stop]).abs().square()
        hertz = torch.fft.rfftfreq(stop - start, 1 / RATE)
        heard = spectrum[:, (hertz > self.tones[0]) & (hertz < self.tones[1])].sum(1) / len(hertz)
        return torch.stack([heard, torch.zeros_like(heard)], 1)


def words(count: int = 30) -> Words:
    net = Words(count).double()
    weights = torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    weights[0] = 0
    net.weigh.weight.data.copy_(weights)
    return net.eval()


@pytest.mark.parametrize("method", [ig.explain.occlusion, ig.explain.kernel_shap])
def test_the_weight_of_each_word_is_found_exactly(method: Explain[...]) -> None:
    net = words()
    x = torch.tensor([[3, 7, 7, 12, 0, 0], [29, 1, 2, 3, 4, 5]]).double()
    found = method(ig.wrap(net, bounds=(0, 29)), x, 1, view=Text(padding=0))
    torch.testing.assert_close(found.values, net.weigh.weight.detach()[x.long(), 1], rtol=1e-9, atol=1e-9)


def test_lime_ranks_words_by_their_weight_and_an_anchor_is_the_word_that_decides() -> None:
    net = words()
    x = torch.tensor([[3, 7, 11, 12, 20, 0]]).double()
    found = ig.explain.lime(ig.wrap(net, bounds=(0, 29)), x, 1, view=Text(padding=0), samples=256)
    weights = net.weigh.weight.detach()[x.long(), 1]
    assert found.values.argsort(1).tolist() == weights.argsort(1).tolist()
    with torch.no_grad():
        net.weigh.weight[:, 1] -= 0.5
        net.weigh.weight[11] = torch.tensor([-50.0, 50.0])
    rule = ig.explain.anchors(ig.wrap(net, bounds=(0, 29)), x, 1, view=Text(padding=0))
    assert rule.values.tolist() == [[0, 0, 1, 0, 0, 0]]


@pytest.mark.parametrize("method", [ig.explain.occlusion, ig.explain.lime, ig.explain.kernel_shap])
def test_a_beep_is_found_where_it_sounds(method: Explain[...]) -> None:
    noise = torch.randn(2, 1, 4000, generator=torch.Generator().manual_seed(0)) * 0.05
    second = torch.arange(4000) / RATE
    x = noise + 0.8 * torch.sin(2 * torch.pi * 2500 * second) * ((second > 0.2) & (second < 0.25))
    model = ig.wrap(Beep((0.2, 0.25), (2400, 2600)).eval(), bounds=(-2, 2))
    options = {"samples": 512} if method is not ig.explain.occlusion else {}
    found = method(model, x, 0, view=Audio(parts=10, bands=4), **options)
    by_part = found.values[..., :: 4000 // 10]  # (N, bands, stretches)
    assert by_part.shape == (2, 4, 10)
    assert by_part.flatten(1).argmax(1).tolist() == [2 * 10 + 4] * 2, "third band of four, fifth stretch of ten"


def loaders(root: Path) -> None:
    sys.path.insert(0, str(root / "loaders"))


def test_on_sentences_the_words_of_a_trained_model_are_found(shared_data: Path) -> None:
    loaders(shared_data)
    import ready  # type: ignore[import-not-found]

    known, y = ready.sentences("train")
    held, held_y = ready.sentences("dev")
    common = [word for word, _ in Counter(" ".join(known[:4000]).split()).most_common(3000)]
    numbers = {word: at + 1 for at, word in enumerate(common)}

    def tokens(sentences: list[str]) -> Tensor:
        rows = [[numbers[word] for word in sentence.split() if word in numbers][:40] for sentence in sentences]
        return torch.tensor([row + [0] * (40 - len(row)) for row in rows]).float()

    x, labels = tokens(known[:4000]), torch.tensor(y[:4000]).long()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = Words(3001).eval()
        nn.init.zeros_(net.weigh.weight)
    fit(net, len(x), lambda net, rows, _: F.cross_entropy(net(x[rows]), labels[rows]), epochs=6, lr=1e-2)
    test, test_y = tokens(held[:200]), torch.tensor(held_y[:200]).long()
    with torch.no_grad():
        assert float((net(test).argmax(1) == test_y).double().mean()) > 0.68
    model = ig.wrap(net, bounds=(0, 3000))
    few = test[:6]
    found = ig.explain.kernel_shap(model, few, 1, view=Text(padding=0), samples=400)
    torch.testing.assert_close(found.values.float(), net.weigh.weight.detach()[few.long(), 1], rtol=1e-3, atol=1e-4)
    lime = ig.explain.lime(model, few, 1, view=Text(padding=0), samples=400)
    top = net.weigh.weight.detach()[few.long(), 1].abs().argmax(1)
    assert torch.equal(lime.values.abs().argmax(1), top)


def test_on_spoken_digits_what_speaks_for_a_digit_carries_it(shared_data: Path) -> None:
    loaders(shared_data)
    import ready

    def read(split: str) -> tuple[Tensor, Tensor]:
        sounds, labels = ready.fsdd(split)
        rows = [torch.tensor(sound[:LENGTH].astype("float32")) / 32768 for sound in sounds]
        return torch.stack([F.pad(row, (0, LENGTH - len(row))) for row in rows])[:, None], torch.tensor(labels).long()

    (x, y), (held, held_y) = read("train"), read("dev")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = Spectral().eval()
    fit(net, len(x), lambda net, rows, _: F.cross_entropy(net(x[rows]), y[rows]), epochs=15, lr=3e-3)
    with torch.no_grad():
        right = net(held).argmax(1) == held_y
    assert float(right.double().mean()) > 0.7
    some, labels = held[right][:8], held_y[right][:8]
    view = Audio(parts=16, bands=4)
    found = ig.explain.lime(ig.wrap(net, bounds=(-1, 1)), some, labels, view=view, samples=600)
    parts = view.cut(some, ig.Bounds(-1, 1), None)
    weights = torch.stack(
        [found.values.flatten(1)[:, (parts.labels.flatten() == part).int().argmax()] for part in range(64)], 1
    )
    order = weights.argsort(1, descending=True)

    def logits_without(gone: Tensor) -> Tensor:
        keep = torch.ones(len(some), 1, 64, dtype=torch.bool).scatter(2, gone[:, None], value=False)
        with torch.no_grad():
            return net(parts.masked(keep, torch.arange(len(some)))).gather(1, labels[:, None])[:, 0]

    assert bool((logits_without(order[:, :12]) < logits_without(order[:, -12:])).all())
    assert bool((logits_without(order[:, :12]).mean() < logits_without(order[:, 26:38]).mean()).all())
