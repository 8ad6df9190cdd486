"""Rows of a hand-derived bound: each term against Pyro's sites, and the objective by `inference.compare`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from exercises.checking import files
from exercises.checking.rows import Row
from inference.elbo.comparison import compare
from inference.elbo.estimators import ESTIMATORS
from inference.elbo.traces import terms_per_point
from ppl_models.programs import latents_of

Mistakes = Mapping[str, Mapping[str, Callable[..., Tensor]]]

CLOSED = 'kl="sampled" asks for log q(z | x) - log p(z) at the sample z. You gave the closed form.'
SAMPLED = 'kl="closed" asks for the closed form of the KL divergence. You used the sample z.'


@cache
def original(number: str) -> Any:
    """Returns the class of an exercise with our model, guide and bound."""
    module = files.load(files.solution(number))
    cls = files.own_class(module)
    assert cls is not None, f"solution {number} has no class"
    return cls


def answered(given: Any, *names: str) -> Any:
    """Returns our model with the student's methods, and parameters from a fixed seed, in float64.

    Model, guide and constructor are ours unless named, so that a changed model does not change the truth.
    """
    cls = original(given.number)
    theirs = files.own_class(given.module) if given.module else None
    helpers = (
        {}
        if theirs is None
        else {k: v for k, v in vars(theirs).items() if k not in vars(cls) and callable(v)}
    )
    methods = helpers | {name: getattr(given, name) for name in names}
    pyro.set_rng_seed(0)
    model = type(cls.__name__, (cls,), {"__doc__": cls.__doc__, **methods})().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def bound_rows(
    given: Any,
    inputs: dict[str, Tensor],
    mistakes: Mistakes | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Iterator[Row]:
    """Yields a row per term and estimator of the model, and one of each objective.

    Args:
        given: the student's answers, `bound` among them.
        inputs: the inputs of the model.
        mistakes: term -> hint -> wrong value as a function of model, inputs and latents.
        sizes: what a sum is over -> the number of its summands.
    """
    model = answered(given, "bound")
    parameters = list(model.parameters())
    for estimator in model.estimators:
        kl = ESTIMATORS[estimator].kl
        torch.manual_seed(1)
        with poutine.enum(first_available_dim=-2):
            guide = poutine.trace(model.guide).get_trace(**inputs)
            trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(**inputs)
        latents, truths = latents_of(guide), terms_per_point(trace, guide, kl)
        other = terms_per_point(trace, guide, "closed" if kl == "sampled" else "sampled")
        single = len(model.estimators) == 1
        for name in sorted(truths, key=lambda name: (name != "reconstruction", not name.startswith("kl_"))):
            if name == "reconstruction" and estimator != model.estimators[0]:
                continue  # it is the same for all estimators
            truth = truths[name]
            wrong = {
                hint: _bind(function, model, inputs, latents)
                for hint, function in (mistakes or {}).get(name, {}).items()
            }
            wrong |= {CLOSED if kl == "sampled" else SAMPLED: _constant(other[name])}
            yield Row(
                name if single or not name.startswith("kl_") else f"{name} ({kl})",
                term_of(model, inputs, latents, kl, name),
                _constant(truth if name == "reconstruction" or name.startswith("kl_") else truth.mean()),
                parameters,
                wrong,
                sizes or {},
            )
        yield from _objective(model, inputs, estimator, "objective" if single else f"objective ({estimator})")


def _bind(function: Callable[..., Tensor], *arguments: Any) -> Callable[[], Tensor]:
    return lambda: function(*arguments)


def _constant(value: Tensor) -> Callable[[], Tensor]:
    return lambda: value


def term_of(model: Any, inputs: Any, latents: Any, kl: str, name: str) -> Callable[[], Tensor]:
    """Returns a function that computes a term of the student's bound, as the student returned it."""

    def term() -> Tensor:
        given = model.bound(**inputs, latents=latents, kl=kl)
        if given is None:
            raise ValueError("bound returns nothing. Is a return statement missing?")
        found = {**given.terms, **given.penalties}
        if name not in found:
            raise ValueError(f"bound has no term {name}. Its terms are {', '.join(found)}.")
        return found[name]

    return term


def _objective(model: Any, inputs: dict[str, Tensor], estimator: str, name: str) -> Iterator[Row]:
    """Yields the row of the objective, by `inference.compare`.

    It yields none if the student's bound raises an error, which the rows of the terms show.
    """
    torch.manual_seed(2)
    with suppress(Exception):
        terms = compare(model, inputs, estimator)["terms"]["objective"]
        yield Row(name, lambda: torch.tensor(terms["by_hand"]), lambda: torch.tensor(terms["pyro"]))
