"""The runner: checks a request once, cuts it into fixed shards, and puts the results together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from ironglass.core.catalogue import LADDER
from ironglass.core.errors import AccessError, InputError
from ironglass.core.method import Method
from ironglass.core.results import Attribution, Result
from ironglass.core.values import Avoid, Goal
from ironglass.models.adapter import Adapter, check, check_request, check_target, wrap

from .cache import Cache, key_of
from .judge import Job, check_finish, inputs_of, join, per_sample
from .pools import Pool, Serial

SHARD = 256
"""Samples a shard. A constant, not a setting: with it fixed, any number of workers gives the same bits."""

Tick = Callable[[str, int, int], None]


class Runner:
    """Runs methods on one model.

    Args:
        model: a network, a function, or what `wrap` made of it.
        pool: where shards run; this process if None.
        cache: keeps finished shards; none if None.
        tick: told ``(method, samples done, samples in all)``.
        max_queries: budget a sample, for attacks.
    """

    def __init__(
        self,
        model: object,
        *,
        pool: Pool | None = None,
        cache: Cache | None = None,
        tick: Tick | None = None,
        max_queries: int | None = None,
    ) -> None:
        self.model: Adapter = wrap(model)  # type: ignore[arg-type]
        self._pool, self._cache, self._tick, self._max_queries = pool or Serial(), cache, tick, max_queries

    def __call__(self, method: Method[Any], *args: Any, **options: Any) -> Result:
        """Runs a method on samples and what else it takes, e.g. ``runner(pgd, x, y, Linf(8/255), steps=20)``.

        Raises:
            InputError: before any work is done, if the request is wrong.
            MethodFailed: if the method raises or breaks its contract.
        """
        job = self._job(method, args, options)
        shards = [job.take(slice(start, start + SHARD)) for start in range(0, len(job.x), SHARD)]
        results, done = [], 0
        for shard, result in zip(shards, self._results(shards), strict=True):
            results.append(result)
            done += len(shard.x)
            if self._tick is not None:
                self._tick(method.card.name, done, len(job.x))
        return replace(join(results), options=job.options)

    def _job(self, method: Method[Any], args: tuple[Any, ...], options: dict[str, Any]) -> Job:
        chosen = method.card.filled(method.fixed | options)
        if not args:
            raise InputError(f"{method.card.name} got no samples", f"{method.card.name}(model, x, …)")
        first, *rest = args
        model = self.model
        if isinstance(first, Attribution):
            x: Tensor = first.x
            check(model, x)
            check_target(model, x, first.target)
            if (first.at or first.unit) and "inside" not in method.card.tags:
                raise InputError(
                    f"{method.card.name} tests maps of the input for a class; this one is "
                    + " ".join(f"{name}={value}" for name, value in (("at", first.at), ("unit", first.unit)) if value),
                    "explain without at= and unit=, or test with: ironglass list --tag inside",
                )
            inputs: tuple[Any, ...] = (first,)
        else:
            x = first
            check(model, x)
            inputs = inputs_of(method, model, x, tuple(rest))
            aim, *threat = inputs
            if method.card.decorator == "explain":
                if chosen.get("unit") is not None and rest and rest[0] is not None:
                    raise InputError("both a target and a unit are given", "explain one of them")
                check_target(model, x, aim)
            else:
                check_request(model, x, aim.labels if isinstance(aim, Goal) else aim, *(threat or [None]))
            if method.card.decorator == "attack":
                check_finish(chosen, x, threat[0], model)
                inputs = (Avoid(aim) if isinstance(aim, Tensor) else aim, *threat)
        for option in method.card.options:
            if option.name in method.card.needs and chosen[option.name] is None:
                raise InputError(f"{method.card.name} needs {option.name}", f"give {option.name}=: {option.help}")
        for name in per_sample(method):
            given = chosen[name]
            if given is not None and len(given) != len(x):
                raise InputError(f"{name} has {len(given)} rows for {len(x)} samples", "give a row a sample")
        need = method.card.access_with(chosen)
        if LADDER.index(need) > LADDER.index(model.access):
            raise AccessError(
                f"{method.card.name} needs {need}, this model gives {model.access}.",
                f"try: ironglass list {method.card.family} --access {model.access}",
            )
        return Job(method, x.detach(), inputs, chosen, self._max_queries)

    def _results(self, shards: list[Job]) -> Iterator[Result]:
        """Yields the results in order: from the cache where they are there, else from the pool."""
        keys = [key_of(self.model, shard) if self._cache is not None else None for shard in shards]
        known = [self._cache.get(key) if self._cache is not None and key is not None else None for key in keys]
        fresh = self._pool.map(
            self.model, [shard for shard, result in zip(shards, known, strict=True) if result is None]
        )
        for key, result in zip(keys, known, strict=True):
            if result is None:
                result = next(fresh)
                if self._cache is not None and key is not None and not result.partial:
                    self._cache.put(key, result)
            yield result


def run(method: Method[Any], model: object, *args: Any, **options: Any) -> Result:
    """Runs one method: what a method's own call does."""
    return Runner(model)(method, *args, **options)
