"""Decorators that turn a pure function into a method: checked and metered when called, bare as ``.raw``."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar, cast

from torch import Tensor

from .catalogue import Card, card_of, find
from .diagnosis import Diagnosis, Examined, Study
from .results import AttackResult, Attribution, Certificate, CertifiedRadius, Estimate, Map, Proof, Score, Smoothed
from .training import Recipe, Tick, Trained
from .uncertainty import Uncertainty
from .values import Goal, Threat

if TYPE_CHECKING:
    from .access import Model, Query

P = ParamSpec("P")
M = TypeVar("M", bound="Method[Any]")
S_co = TypeVar("S_co", bound=Study, covariant=True)
Access = Literal["labels", "scores", "gradient", "internals", "training"]
_defined: dict[str, Method[Any]] = {}


class Method(Generic[P]):
    """A pure function with a card. Calling it goes through the runner, which checks, meters and judges."""

    def __init__(self, function: Callable[..., Any], card: Card, fixed: dict[str, Any] | None = None) -> None:
        functools.update_wrapper(cast(Any, self), function)
        self.raw, self.card, self.fixed = function, card, fixed or {}

    def __repr__(self) -> str:
        fixed = ", ".join(f"{name}={value!r}" for name, value in self.fixed.items())
        return f"{self.card.family}.{self.card.name}" + (f".with_({fixed})" if fixed else "")

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str, dict[str, Any]]]:
        return _restore, (self.card.module, self.card.name, self.fixed)

    @property
    def access(self) -> str:
        """The least the model must give, with the options that are fixed."""
        return self.card.access_with(self.fixed)

    def with_(self, **options: Any) -> Self:
        """Returns the same method with these options fixed."""
        self.card.filled(options)
        return type(self)(self.raw, self.card, self.fixed | options)

    def _judged(self, *args: Any, **options: Any) -> Any:
        """Hands the call to the runner. Methods stand below it and never import it, so it is found when called."""
        return importlib.import_module("ironglass.run").run(self, *args, **options)


def _restore(module: str, name: str, fixed: dict[str, Any]) -> Method[Any]:
    importlib.import_module(module)
    method = _defined[name]
    return type(method)(method.raw, method.card, fixed)


def get(name: str, family: str | None = None) -> Method[Any]:
    """Returns a method by name: one that was defined in this process, or one of the catalogue.

    Raises:
        InputError: if there is none of that name.
    """
    method = _defined.get(name)
    if method is None or family not in (None, method.card.family):
        importlib.import_module(find(name, family).module)
    return _defined[name]


class Attack(Method[P]):
    """An attack: ``pgd(model, x, y, Linf(8/255), steps=20)`` returns an `AttackResult`."""

    def __call__(
        self, model: object, x: Tensor, goal: Goal | Tensor, threat: Threat, *args: P.args, **options: P.kwargs
    ) -> AttackResult:
        """Runs the attack; a plain label tensor means `Avoid`."""
        return cast(AttackResult, self._judged(model, x, goal, threat, *args, **options))


class Explain(Method[P]):
    """An explanation: ``saliency(model, x, target=None)`` returns an `Attribution`; None explains the decision."""

    def __call__(
        self,
        model: object,
        x: Tensor,
        target: Tensor | int | tuple[int, int] | None = None,
        *args: P.args,
        **options: P.kwargs,
    ) -> Attribution:
        """Explains the target's logit; for a pair, ``(3, 5)`` or ``(N, 2)``, its lead over the second's."""
        return cast(Attribution, self._judged(model, x, target, *args, **options))


class Certify(Method[P]):
    """A proof: ``interval(model, x, y, Linf(0.1))`` returns a `Certificate`."""

    def __call__(
        self, model: object, x: Tensor, y: Tensor, threat: Threat, *args: P.args, **options: P.kwargs
    ) -> Certificate:
        """Bounds the margin over the ball."""
        return cast(Certificate, self._judged(model, x, y, threat, *args, **options))

    def radius(
        self, model: object, x: Tensor, y: Tensor, threat: Threat, *, rounds: int = 10, **options: Any
    ) -> CertifiedRadius:
        """Returns each sample's largest radius up to ``threat.eps`` that is proven, exact to ``eps / 2**rounds``."""
        find = importlib.import_module("ironglass.run").certified_radius
        return cast(CertifiedRadius, find(self, model, x, y, threat, rounds=rounds, **options))


class Estimates(Method[P]):
    """An estimate of the robust radius, without guarantee: ``clever(model, x, y, L2(5))`` returns an `Estimate`."""

    def __call__(
        self, model: object, x: Tensor, y: Tensor, threat: Threat, *args: P.args, **options: P.kwargs
    ) -> Estimate:
        """Estimates the radius up to ``threat.eps``."""
        return cast(Estimate, self._judged(model, x, y, threat, *args, **options))


class Smooths(Method[P]):
    """A promise on a smoothed classifier: ``smoothing(model, x, y, L2(0.5))`` returns a `Smoothed`."""

    def __call__(
        self, model: object, x: Tensor, y: Tensor, threat: Threat, *args: P.args, **options: P.kwargs
    ) -> Smoothed:
        """Finds the radius in which the smoothed classifier keeps its decision."""
        return cast(Smoothed, self._judged(model, x, y, threat, *args, **options))


class Metric(Method[P]):
    """A test of an explanation: ``completeness(model, attribution)`` returns a `Score`."""

    def __call__(self, model: object, attribution: Attribution, *args: P.args, **options: P.kwargs) -> Score:
        """Scores an attribution on the model it explains."""
        return cast(Score, self._judged(model, attribution, *args, **options))


class Diagnose(Method[P]):
    """A diagnosis of the model: ``masking_alarms(model, x, y, Linf(8/255))`` returns a `Diagnosis`."""

    def __call__(
        self, model: object, x: Tensor, y: Tensor, threat: Threat, *args: P.args, **options: P.kwargs
    ) -> Diagnosis:
        """Examines the model, and says which checks raise an alarm."""
        return cast(Diagnosis, self._judged(model, x, y, threat, *args, **options))


class Studies(Method[P], Generic[P, S_co]):
    """A study of models on a whole set: ``unit_semantics(model, x, y)`` returns a `Study`, or a kind of one."""

    def __call__(
        self,
        models: object | Sequence[object] | Mapping[str, object],
        x: Tensor,
        y: Tensor,
        threat: Threat | None = None,
        *args: P.args,
        **options: P.kwargs,
    ) -> S_co:
        """Studies one model, several, or several by name; a threat is given where the card has norms."""
        run = importlib.import_module("ironglass.run").run_study
        return cast(S_co, run(self, models, x, y, threat, *args, **options))


class Experiment(Method[P], Generic[P, S_co]):
    """An experiment without a model, such as a law of the field on a toy: ``sample_complexity()`` is a `Study`."""

    def __call__(self, *args: P.args, **options: P.kwargs) -> S_co:
        """Runs the experiment."""
        return cast(S_co, importlib.import_module("ironglass.run").run_experiment(self, *args, **options))


class Trains(Method[P]):
    """A training: ``trades(model, (x, y), Linf(0.1))`` returns a stronger copy of the network, `Trained`."""

    def __call__(
        self,
        model: object,
        data: tuple[Tensor, Tensor],
        threat: Threat | None = None,
        check: tuple[Tensor, Tensor] | None = None,
        checkpoint: str | Path | None = None,
        progress: Tick | None = None,
        *args: P.args,
        **options: P.kwargs,
    ) -> Trained:
        """Trains a copy of the network; the one that is given is not touched.

        Args:
            model: a network, or what `wrap` made of it.
            data: samples ``(N, *shape)`` in input units, and labels ``(N,)``. A part is kept back: by it the best epoch
                is chosen.
            threat: to train against.
            check: samples and labels for the figures before and after; those kept back if None.
            checkpoint: a file that is written after each epoch; the same call takes an interrupted training up again.
            progress: told after each epoch ``(epochs done, epochs in all, what it came to)``.
            args: none; options are given by name.
            options: of the method.
        """
        run = importlib.import_module("ironglass.run").run_training
        return cast(Trained, run(self, model, data, threat, check, checkpoint, progress, *args, **options))


class Defence(Method[P]):
    """A defence that transforms inputs: ``feature_squeezing(model, bits=1)`` returns the model behind it.

    What comes back is a model: attacks, explanations and audits take it, and go through the defence. Its
    ``undefended`` is the model that was given.
    """

    def __call__(self, model: object, *args: P.args, **options: P.kwargs) -> Any:
        """Puts the defence before a model."""
        return importlib.import_module("ironglass.models.defended").defend(self, model, options)


class NetworkDefence(Method[P]):
    """A defence that changes the network, by labelled samples: ``deepcloak(model, x, y, Linf(0.1))``."""

    def __call__(self, model: object, x: Tensor, y: Tensor, threat: Threat, *args: P.args, **options: P.kwargs) -> Any:
        """Returns the model with a changed copy of its network; ``undefended`` is the model that was given."""
        return importlib.import_module("ironglass.models.defended").changed(self, model, (x, y, threat), options)


class Detects(Method[P]):
    """A detector of adversarial inputs: ``squeezing_detector(model, x, fpr=0.05)`` returns a fitted `Detector`."""

    def __call__(self, model: object, x: Tensor, *args: P.args, **options: P.kwargs) -> Any:
        """Sets the threshold so that of these legitimate samples at most a share ``fpr`` is flagged."""
        return importlib.import_module("ironglass.models.detector").fit(self, model, x, options)


class Uncertain(Method[P]):
    """Predictive uncertainty: ``mc_dropout(model, x, samples=50)`` returns an `Uncertainty`."""

    def __call__(self, model: object, x: Tensor, *args: P.args, **options: P.kwargs) -> Uncertainty:
        """Predicts with several draws, and says where they disagree."""
        found = importlib.import_module("ironglass.run.uncertain").run_uncertainty(self, model, x, **options)
        return cast(Uncertainty, found)


AttackFunction = Callable[Concatenate["Model", Tensor, Goal, Threat, P], Tensor]
ExplainFunction = Callable[Concatenate["Model", Tensor, Tensor, P], Tensor | Map]
CertifyFunction = Callable[Concatenate["Model", Tensor, Tensor, Threat, P], Tensor | Proof]
EstimateFunction = Callable[Concatenate["Model", Tensor, Tensor, Threat, P], tuple[Tensor, Tensor]]
SmoothedFunction = Callable[Concatenate["Model", Tensor, Tensor, Threat, P], tuple[Tensor, Tensor, float]]
MetricFunction = Callable[Concatenate["Model", Attribution, P], Score]
DiagnoseFunction = Callable[Concatenate["Model", Tensor, Tensor, Threat, P], Examined]
StudyFunction = Callable[Concatenate[Mapping[str, "Model"], Tensor, Tensor, Threat | None, P], S_co]
TrainFunction = Callable[Concatenate[Threat | None, P], Recipe]
DefenceFunction = Callable[Concatenate[Tensor, "Query", P], Tensor]
NetworkDefenceFunction = Callable[Concatenate["Model", Tensor, Tensor, Threat, P], Any]
DetectorFunction = Callable[Concatenate[Any, P], Any]
UncertaintyFunction = Callable[Concatenate[Any, Tensor, P], Any]


def _known(method: M) -> M:
    _defined[method.card.name] = method
    return method


def attack(
    *, title: str, paper: str, access: Access, norms: tuple[str, ...], cost: str, **more: Any
) -> Callable[[AttackFunction[P]], Attack[P]]:
    """Declares an attack: ``f(model, x, goal, threat, *, …) -> adversarial`` of the shape of ``x``."""
    card = dict(title=title, paper=paper, access=access, norms=norms, cost=cost, **more)

    def declare(function: AttackFunction[P]) -> Attack[P]:
        return _known(Attack(function, card_of(function, "attack", card)))

    return declare


def explain(
    *, title: str, paper: str, access: Access, cost: str, kind: Literal["specific", "agnostic"], **more: Any
) -> Callable[[ExplainFunction[P]], Explain[P]]:
    """Declares an explanation: ``f(model, x, target, *, …) -> values`` or a `Map`."""
    card = dict(title=title, paper=paper, access=access, cost=cost, kind=kind, **more)

    def declare(function: ExplainFunction[P]) -> Explain[P]:
        return _known(Explain(function, card_of(function, "explain", card)))

    return declare


def certify(
    *, title: str, paper: str, access: Access, norms: tuple[str, ...], cost: str, **more: Any
) -> Callable[[CertifyFunction[P]], Certify[P]]:
    """Declares a proof: ``f(model, x, y, threat, *, …) -> margin``, a sound lower bound ``(N,)``, or a `Proof`."""
    card = dict(title=title, paper=paper, access=access, norms=norms, cost=cost, **more)

    def declare(function: CertifyFunction[P]) -> Certify[P]:
        return _known(Certify(function, card_of(function, "certify", card)))

    return declare


def estimate(
    *, title: str, paper: str, access: Access, norms: tuple[str, ...], cost: str, **more: Any
) -> Callable[[EstimateFunction[P]], Estimates[P]]:
    """Declares an estimate: ``f(model, x, y, threat, *, …) -> (radius, quality)``, both ``(N,)``."""
    card = dict(title=title, paper=paper, access=access, norms=norms, cost=cost, **more)

    def declare(function: EstimateFunction[P]) -> Estimates[P]:
        return _known(Estimates(function, card_of(function, "estimate", card)))

    return declare


def smoothed(
    *, title: str, paper: str, access: Access, norms: tuple[str, ...], cost: str, **more: Any
) -> Callable[[SmoothedFunction[P]], Smooths[P]]:
    """Declares a promise on a smoothed classifier: ``f(model, x, y, threat, *, …)`` to decision, radius, confidence."""
    card = dict(title=title, paper=paper, access=access, norms=norms, cost=cost, **more)

    def declare(function: SmoothedFunction[P]) -> Smooths[P]:
        return _known(Smooths(function, card_of(function, "smoothed", card)))

    return declare


def metric(
    *, title: str, paper: str, access: Access, cost: str, **more: Any
) -> Callable[[MetricFunction[P]], Metric[P]]:
    """Declares a test of explanations: ``f(model, attribution, *, …) -> Score``."""
    card = dict(title=title, paper=paper, access=access, cost=cost, **more)

    def declare(function: MetricFunction[P]) -> Metric[P]:
        return _known(Metric(function, card_of(function, "metric", card)))

    return declare


def diagnose(
    *, title: str, paper: str, access: Access, norms: tuple[str, ...], cost: str, **more: Any
) -> Callable[[DiagnoseFunction[P]], Diagnose[P]]:
    """Declares a diagnosis: ``f(model, x, y, threat, *, …) -> Examined``, evidence a sample ``(N, checks)``."""
    card = dict(title=title, paper=paper, access=access, norms=norms, cost=cost, **more)

    def declare(function: DiagnoseFunction[P]) -> Diagnose[P]:
        return _known(Diagnose(function, card_of(function, "diagnose", card)))

    return declare


def study(
    *, title: str, paper: str, access: Access, cost: str, **more: Any
) -> Callable[[StudyFunction[P, S_co]], Studies[P, S_co]]:
    """Declares a study: ``f(models by name, x, y, threat, *, …) -> Study``; it sees all samples at once."""
    card = dict(title=title, paper=paper, access=access, cost=cost, **more)

    def declare(function: StudyFunction[P, S_co]) -> Studies[P, S_co]:
        return _known(Studies(function, card_of(function, "study", card)))

    return declare


def experiment(
    *, title: str, paper: str, access: Access, cost: str, **more: Any
) -> Callable[[Callable[P, S_co]], Experiment[P, S_co]]:
    """Declares an experiment, which takes no model, and so asks for no access: ``f(*, …) -> Study``."""
    card = dict(title=title, paper=paper, access=access, cost=cost, **more)

    def declare(function: Callable[P, S_co]) -> Experiment[P, S_co]:
        return _known(Experiment(function, card_of(function, "experiment", card)))

    return declare


def defence(
    *, title: str, paper: str, access: Access, differentiable: bool, cost: str, stochastic: bool = False, **more: Any
) -> Callable[[DefenceFunction[P]], Defence[P]]:
    """Declares a defence that transforms inputs: ``f(x, query, *, …) -> x'``, and what it is.

    Where it is not ``differentiable`` it keeps the shape, and gradients pass it as the identity. Where it is
    ``stochastic`` it takes ``query.draws``, and has the options ``passes`` (draws that one answer is a mean of),
    ``samples`` (draws that an attack's gradient is a mean of) and ``seed``, which the model around it sees to.
    """
    card = dict(title=title, paper=paper, access=access, cost=cost, differentiable=differentiable, **more)

    def declare(function: DefenceFunction[P]) -> Defence[P]:
        made: Defence[P] = _known(Defence(function, card_of(function, "defence", card | {"stochastic": stochastic})))
        missing = {"passes", "samples", "seed"} - {option.name for option in made.card.options}
        if stochastic and missing:
            raise TypeError(f"{made.card.name} draws, and lacks the options {', '.join(sorted(missing))}")
        return made

    return declare


def train(
    *, title: str, paper: str, access: Access, norms: tuple[str, ...], cost: str, **more: Any
) -> Callable[[TrainFunction[P]], Trains[P]]:
    """Declares a training: ``f(threat, *, …) -> Recipe``, the loss of a batch and the course of the loop."""
    card = dict(title=title, paper=paper, access=access, norms=norms, cost=cost, **more)

    def declare(function: TrainFunction[P]) -> Trains[P]:
        return _known(Trains(function, card_of(function, "train", card)))

    return declare


def network_defence(
    *, title: str, paper: str, access: Access, norms: tuple[str, ...], cost: str, **more: Any
) -> Callable[[NetworkDefenceFunction[P]], NetworkDefence[P]]:
    """Declares a defence that changes the network: ``f(model, x, y, threat, *, …) -> network`` in the user's units."""
    card = dict(title=title, paper=paper, access=access, norms=norms, cost=cost, **more)

    def declare(function: NetworkDefenceFunction[P]) -> NetworkDefence[P]:
        return _known(NetworkDefence(function, card_of(function, "network_defence", card)))

    return declare


def detector(
    *, title: str, paper: str, access: Access, cost: str, **more: Any
) -> Callable[[DetectorFunction[P]], Detects[P]]:
    """Declares a detector: ``f(model, *, …) -> Watch``, which views of a sample it takes and what it makes of them."""
    card = dict(title=title, paper=paper, access=access, cost=cost, **more)

    def declare(function: DetectorFunction[P]) -> Detects[P]:
        return _known(Detects(function, card_of(function, "detector", card)))

    return declare


def uncertainty(
    *, title: str, paper: str, access: Access, cost: str, **more: Any
) -> Callable[[UncertaintyFunction[P]], Uncertain[P]]:
    """Declares predictive uncertainty: ``f(model, x, *, …) -> Predicted``, probabilities a draw and what noise adds."""
    card = dict(title=title, paper=paper, access=access, cost=cost, **more)

    def declare(function: UncertaintyFunction[P]) -> Uncertain[P]:
        return _known(Uncertain(function, card_of(function, "uncertainty", card)))

    return declare
