"""Comparison of a bound derived by hand with Pyro's estimator: every term, the objective and its gradient."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any

import torch
from pyro import poutine
from pyro.infer.elbo import ELBO
from pyro.infer.trace_mean_field_elbo import _check_mean_field_requirement
from torch import Tensor
from torch.nn import Parameter

from inference.backend.device import double_precision
from inference.elbo.estimators import ESTIMATORS, checked_by_pyro
from inference.elbo.traces import terms_of
from inference.errors import UserError, unknown
from ppl_models.base import LatentVariableModel
from ppl_models.elbo_terms import ELBOTerms
from ppl_models.programs import latents_of

VALUE_TOLERANCE = 1e-9  # relative to the sum of the terms' magnitudes
GRADIENT_TOLERANCE = 1e-7  # relative to |g| + 1e-3 max|g|, element by element: some true gradients are zero
PARTICLES = 5  # of the importance-weighted bounds


class Comparison(dict[str, Any]):
    """The result of `compare`. It prints as a table and is shown as one in a notebook.

    Keys:
        model: the name of the model.
        estimator: a name in `ESTIMATORS`.
        elbo: Pyro's class.
        batch: the number of images.
        formula: the bound as the model's docstring writes it, a list of lines.
        terms: `{"by_hand": ..., "pyro": ...}` by term, batch means in nats, and `objective`.
        value_difference: the largest difference of a term, relative to the sum of the terms' magnitudes.
        gradient_difference: the largest difference of an element of the objective's gradient, relative to
            |g| + 1e-3 max|g| of Pyro's gradient g.
        agrees: whether both differences are within `VALUE_TOLERANCE` and `GRADIENT_TOLERANCE`.
    """

    def __str__(self) -> str:
        lines = [
            self._title(),
            *(f"  {line}" for line in self["formula"]),
            f"  {'term':16} {'by hand':>22} {'Pyro':>22} {'difference':>12}",
        ]
        lines += [
            f"  {name:16} {by_hand:>22} {by_pyro:>22} {difference:>12}"
            for name, by_hand, by_pyro, difference in self._rows()
        ]
        return "\n".join([*lines, f"  {self._verdict()}"])

    def _repr_html_(self) -> str:
        """Returns the table as HTML, for notebooks."""
        formula = escape("\n".join(self["formula"]))
        head = "".join(f"<th>{name}</th>" for name in ("term", "by hand", "Pyro", "difference"))
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self._rows()
        )
        return (
            f"<table><caption>{escape(self._title())}<pre>{formula}</pre></caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{escape(self._verdict())}</p>"
        )

    def _title(self) -> str:
        return f"{self['model']}, {self['elbo']}, {self['batch']} images, float64, nats per image"

    def _rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Yields each term's name, its values by hand and from Pyro, and their difference, as text."""
        for name, term in self["terms"].items():
            difference = abs(term["by_hand"] - term["pyro"])
            yield name, f"{term['by_hand']:.15g}", f"{term['pyro']:.15g}", f"{difference:.1e}"

    def _verdict(self) -> str:
        return (
            f"relative difference: value {self['value_difference']:.1e} (at most {VALUE_TOLERANCE:.0e}),"
            f" gradient {self['gradient_difference']:.1e} (at most {GRADIENT_TOLERANCE:.0e}): "
            + ("agrees" if self["agrees"] else "DOES NOT AGREE")
        )


def compare(
    model: LatentVariableModel, inputs: Tensor | Mapping[str, Tensor], estimator: str | None = None
) -> Comparison:
    """Compares a model's `bound` with Pyro's estimator, in value and in gradient.

    Both sides use the same noise: Pyro's estimator runs the guide, and `bound` computes its terms from the
    values that the guide sampled, with their graph. In float64 both agree to rounding. A model or inputs
    in another precision are copied and compared in float64.

    Args:
        model: the model.
        inputs: the observations x, (batch, *shape), or all inputs that the model names.
        estimator: a name in `ESTIMATORS`; None means the model's first.

    Returns:
        The terms on both sides and their differences.

    Raises:
        UserError: an input is missing, the estimator is unknown, or `mean_field` is used and the guide's
            latents come in another order than the model's.
        RuntimeError: both sides have different terms.
    """
    inputs = {"x": inputs} if isinstance(inputs, Tensor) else dict(inputs)
    estimator = model.estimators[0] if estimator is None else estimator
    missing = [name for name in model.inputs if name not in inputs]
    if missing:
        raise UserError(
            f"{type(model).__name__} needs {', '.join(model.inputs)}, but {', '.join(missing)} is not given. "
            "Give a dictionary of all inputs."
        )
    if estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)
    with _in_float64(model, inputs) as (model, inputs):
        return _compare(model, inputs, estimator)


@contextmanager
def _in_float64(
    model: LatentVariableModel, inputs: dict[str, Tensor]
) -> Iterator[tuple[LatentVariableModel, dict[str, Tensor]]]:
    """Yields the model and its inputs in float64: themselves, or copies."""
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    if all(parameter.dtype == torch.float64 for parameter in model.parameters()):
        yield model, inputs
        return
    with double_precision():
        yield copy.deepcopy(model).double(), inputs


def _compare(model: LatentVariableModel, inputs: dict[str, Tensor], estimator: str) -> Comparison:
    """Compares a model and inputs in float64, see `compare`."""
    importance, kl = ESTIMATORS[estimator].importance_weighted, ESTIMATORS[estimator].kl
    elbo = ESTIMATORS[estimator].elbo(PARTICLES if importance else 1)
    objective, model_trace, guide_trace = _pyro_objective(model, inputs, elbo, estimator)
    latents = latents_of(guide_trace)
    bound = model.bound(**inputs, latents=latents, kl=kl)

    pyro_terms = {**terms_of(model_trace, guide_trace, kl), "objective": objective}
    hand_terms = {name: term.mean() for name, term in {**bound.terms, **bound.penalties}.items()}
    hand_terms["objective"] = bound.importance_weighted.mean() if importance else bound.objective
    value = _value_difference(bound, hand_terms, pyro_terms)

    parameters = [p for p in model.parameters() if p.requires_grad]
    if estimator == "iwae_dreg":
        ours = _doubly_reparameterised_gradient(model, inputs, latents, parameters)
    else:
        ours = _gradient(hand_terms["objective"], parameters)
    theirs = _gradient(objective, parameters)
    gradient = ((ours - theirs).abs() / (theirs.abs() + 1e-3 * theirs.abs().max())).max().item()
    return Comparison(
        {
            "model": type(model).__name__,
            "estimator": estimator,
            "elbo": _elbo_name(elbo, estimator),
            "batch": len(inputs["x"]),
            "formula": formula(type(model), importance),
            "terms": {
                name: {"by_hand": hand_terms[name].item(), "pyro": pyro_terms[name].item()}
                for name in hand_terms
            },
            "value_difference": value,
            "gradient_difference": gradient,
            "agrees": value <= VALUE_TOLERANCE and gradient <= GRADIENT_TOLERANCE,
        }
    )


def _pyro_objective(
    model: LatentVariableModel, inputs: dict[str, Tensor], elbo: ELBO, estimator: str
) -> tuple[Tensor, poutine.Trace, poutine.Trace]:
    """Returns Pyro's objective per image, and the traces of the model and the guide behind it."""
    traces: dict[str, list[poutine.Trace]] = {"model": [], "guide": []}

    def traced(name: str) -> Callable[..., None]:
        def program(**inputs: Tensor) -> None:
            with poutine.trace() as tracer:
                getattr(model, name)(**inputs)
            traces[name].append(tracer.trace)

        return program

    with checked_by_pyro():
        objective = elbo.differentiable_loss(traced("model"), traced("guide"), **inputs) / len(inputs["x"])
        model_trace, guide_trace = traces["model"][0], traces["guide"][0]
        if estimator == "mean_field":  # Pyro itself checks only if its validation is on
            _check_mean_field_requirement(model_trace, guide_trace)
    return objective, model_trace, guide_trace


def _value_difference(
    bound: ELBOTerms, hand_terms: dict[str, Tensor], pyro_terms: dict[str, Tensor]
) -> float:
    """Returns the largest difference of a term, relative to the sum of the weighted terms' magnitudes."""
    if hand_terms.keys() != pyro_terms.keys():
        raise RuntimeError(
            f"bound has the terms {sorted(hand_terms)}, but Pyro has {sorted(pyro_terms)}. "
            "Name each KL term kl_ and the latent's name, and each penalty like its site."
        )
    scale = sum(
        abs(term.item()) * float(bound.weights.get(name, 1.0))
        for name, term in hand_terms.items()
        if name != "objective"
    )
    return max(abs(hand_terms[name].item() - pyro_terms[name].item()) for name in hand_terms) / scale


def _gradient(loss: Tensor, parameters: list[Parameter]) -> Tensor:
    """Returns the gradient of a loss with respect to all parameters, flattened and concatenated."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def _doubly_reparameterised_gradient(
    model: LatentVariableModel,
    inputs: dict[str, Tensor],
    latents: dict[str, Tensor],
    parameters: list[Parameter],
) -> Tensor:
    """Returns the doubly reparameterised gradient by hand, for guides that share no parameter with the model.

    Parameters that the samples depend on get their gradient through the samples only, with squared weights.
    The others get it with the weights, at fixed samples.
    """
    leaves = {name: z.detach().requires_grad_() for name, z in latents.items()}
    bound = model.bound(**inputs, latents=leaves, kl="sampled").negative_elbo
    assert bound is not None
    w = (-bound).detach().softmax(0) / bound.shape[-1]  # of each particle, and of each image in the mean
    path_gradients = torch.autograd.grad(
        (w**2 * bound.shape[-1] * bound).sum(), list(leaves.values()), retain_graph=True
    )
    by_guide = torch.autograd.grad(
        list(latents.values()), parameters, path_gradients, retain_graph=True, allow_unused=True
    )
    by_model = torch.autograd.grad((w * bound).sum(), parameters, materialize_grads=True)
    return torch.cat([(m if g is None else g).flatten() for g, m in zip(by_guide, by_model, strict=True)])


def formula(cls: type[LatentVariableModel], importance: bool) -> list[str]:
    """Returns the lines of a model's docstring that state its bound and its objective.

    For an importance-weighted bound it returns the formula of that bound.
    """
    if importance:
        return [f"objective = -log 1/{PARTICLES} sum_k p(x, z_k) / q(z_k | x),   z_k ~ q(z | x)"]
    paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    return [
        line for part in paragraphs if part.startswith(("-ELBO", "objective")) for line in part.split("\n")
    ]


def _elbo_name(elbo: ELBO, estimator: str) -> str:
    """Returns the name of Pyro's class, or a description of the importance-weighted bound."""
    if ESTIMATORS[estimator].importance_weighted:
        return f"importance-weighted bound, {PARTICLES} particles" + ", DReG" * (estimator == "iwae_dreg")
    return next(cls.__name__ for cls in type(elbo).__mro__ if cls.__module__.startswith("pyro."))
