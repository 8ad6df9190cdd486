"""Paper against program: the bound derived by hand beside Pyro's, term by term, in value and in gradient.

python -m inference.compare                    every model, every estimator that applies to it
python -m inference.compare --model ssvae      one model
python -m inference.compare --run RUN_DIR      a run's parameters, on its own test images
python -m inference.compare --json             the same as JSON

Both sides see the same noise: Pyro's estimator runs the guide, and the bound by hand is worked out from the
values that it sampled, with their graph. In float64 they agree to rounding, or the exit status is 1.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import inspect
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.trace_mean_field_elbo import _check_mean_field_requirement
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn import Parameter

from inference.backend.device import double_precision
from inference.cli.options import Parser, positive, seed
from inference.data.batches import OBSERVATIONS, HeldOut, labelled
from inference.data.datasets import Dataset
from inference.elbo.estimators import ESTIMATORS, checked_by_pyro, penalties
from inference.errors import UserError, run_command, unknown
from inference.rundir.run import Run
from ppl_models import MODELS
from ppl_models.base import KL, LatentVariableModel, latents_of
from ppl_models.code_prior import CodePrior

VALUE_TOLERANCE = 1e-9  # of the sum of the terms' magnitudes
PARTICLES = 5  # of the importance-weighted bounds
GRADIENT_TOLERANCE = 1e-7  # of |g| + 1e-3 max|g|, element by element: some true gradients are zero


def main(arguments: list[str]) -> int:
    """Print the comparison. Returns 0 where everything agrees, else 1."""
    parser = Parser(prog="python -m inference.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", metavar="NAME", help=f"one of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--run", type=Path, metavar="RUN_DIR", help="take parameters and images from a run")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where its data set is now")
    parser.add_argument(
        "--batch-size", type=positive(int), default=7, metavar="N", help="images (default: 7)"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of parameters, images and noise (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    if given.model not in (None, *MODELS):
        raise unknown("model", given.model, MODELS)
    if given.run and given.model:
        raise UserError("--run names the model already: leave out --model")
    with double_precision():
        if given.run:
            results = of_run(given.run, given.data_dir, given.batch_size, given.seed)
        else:
            names = [given.model] if given.model else MODELS
            results = [
                of_model(name, estimator, given.batch_size, given.seed)
                for name in names
                for estimator in MODELS[name].estimators
            ]
    agree = sum(result["agrees"] for result in results)
    pages = [*map(page, results), f"{agree} of {len(results)} agree"]
    print(json.dumps(results, indent=2) if given.json else "\n\n".join(pages))
    return 0 if agree == len(results) else 1


def of_model(name: str, estimator: str, batch: int, seed: int) -> dict[str, Any]:
    """A model with random parameters and random images; beta is 1 where the estimator takes no weight."""
    pyro.set_rng_seed(seed)
    cls = MODELS[name]
    options = {"beta": 1.0} if ESTIMATORS[estimator].particles > 1 and "beta" in cls.options() else {}
    model = cls(cls.padded(cls.example_shape), 10, **options)
    model.train(batch > 1)  # batch norm needs two
    return {"model": name, **compare(model, example_inputs(model, batch), estimator)}


def of_run(folder: Path, data_dir: Path | None, batch: int, seed: int) -> list[dict[str, Any]]:
    """A run's parameters on its first test images, and on its labelled images if it has any."""
    _, config, data, model = Run.restore(folder, data_dir)
    results = of_trained(model.double(), config, data, batch, seed)
    return [{"model": f"{config['model']} of {folder}", **result} for result in results]


def of_trained(
    model: LatentVariableModel, config: dict[str, Any], data: Dataset, batch: int, seed: int
) -> list[dict[str, Any]]:
    """A trained model, in float64, on the first test images, under every estimator that applies.

    With a beta other than 1 the importance-weighted ones do not.
    """
    y = None if data.y_test is None else data.y_test[:batch]
    first = replace(data, x_test=data.x_test[:batch], y_test=y)
    inputs, _, _ = next(HeldOut(first, type(model), torch.device("cpu")).chunks(batch))
    if "x_labelled" in model.inputs and data.y_train is not None:
        labels = labelled(data, config["options"]["labels"], config["seed"], config.get("labelled"))
        seen = OBSERVATIONS[model.observation].test(data.x_train[labels])
        inputs |= {"x_labelled": seen.to(inputs["x"]), "y_labelled": data.y_train[labels]}
    results = []
    for estimator in model.estimators:
        if ESTIMATORS[estimator].particles == 1 or getattr(model, "beta", 1.0) == 1.0:
            pyro.set_rng_seed(seed)
            results.append(compare(model, inputs, estimator))
    return results


def example_inputs(model: LatentVariableModel, batch: int) -> dict[str, Tensor]:
    """Random inputs of the kinds that the model names, in its own precision; two labelled images a class."""
    dtype, classes = next(model.parameters()).dtype, model.classes

    def images(n: int) -> Tensor:
        if model.observation == "points":
            return torch.randn(n, *model.shape, dtype=dtype)
        below = model.codes if isinstance(model, CodePrior) else 256
        levels = torch.randint(below, (n, *model.shape), dtype=torch.uint8)
        return OBSERVATIONS[model.observation].train(levels).to(dtype)

    makers = {
        "x": lambda: images(batch),
        "y": lambda: torch.randint(classes, (batch,)),
        "x_labelled": lambda: images(2 * classes),
        "y_labelled": lambda: torch.arange(2 * classes) % classes,
    }
    return {name: makers[name]() for name in model.inputs}


def compare(model: LatentVariableModel, inputs: dict[str, Tensor], estimator: str) -> dict[str, Any]:
    """One model under one estimator: every term by hand and from Pyro, and the largest relative differences.

    The terms are batch means in nats; `objective` is what training minimises. `value_difference` is relative
    to the sum of the terms' magnitudes, `gradient_difference` to |g| + 1e-3 max|g| of Pyro's gradient,
    element by element.

    Raises:
        UserError: `mean_field` is asked, and the guide's latents come in another order than the model's.
    """
    importance, kl = ESTIMATORS[estimator].particles > 1, ESTIMATORS[estimator].kl
    elbo = ESTIMATORS[estimator].elbo(PARTICLES if importance else 1)
    traces: dict[str, list[poutine.Trace]] = {"model": [], "guide": []}

    def watched(name: str) -> Callable[..., None]:  # the program, which leaves its traces behind
        def program(**inputs: Tensor) -> None:
            with poutine.trace() as tracer:
                getattr(model, name)(**inputs)
            traces[name].append(tracer.trace)

        return program

    with checked_by_pyro():
        objective = elbo.differentiable_loss(watched("model"), watched("guide"), **inputs) / len(inputs["x"])
        model_trace, guide_trace = traces["model"][0], traces["guide"][0]
        if estimator == "mean_field":  # also without Pyro's validation
            _check_mean_field_requirement(model_trace, guide_trace)
    latents = latents_of(guide_trace)
    bound = model.bound(**inputs, latents=latents, kl=kl)
    by_hand = bound.importance_weighted.mean() if importance else bound.objective

    pyro_terms = {**terms_of(model_trace, guide_trace, kl), "objective": objective}
    hand_terms = {name: term.mean() for name, term in {**bound.terms, **bound.penalties}.items()}
    hand_terms["objective"] = by_hand
    if hand_terms.keys() != pyro_terms.keys():
        raise RuntimeError(f"terms by hand are {sorted(hand_terms)}, Pyro's {sorted(pyro_terms)}")
    scale = sum(
        abs(term.item()) * bound.weights.get(name, 1.0)
        for name, term in hand_terms.items()
        if name != "objective"
    )
    value = max(abs(hand_terms[name].item() - pyro_terms[name].item()) for name in hand_terms) / scale

    parameters = [p for p in model.parameters() if p.requires_grad]
    if estimator == "iwae_dreg":
        ours = _doubly_reparameterised(model, inputs, latents, parameters)
    else:
        ours = _gradient(by_hand, parameters)
    theirs = _gradient(objective, parameters)
    gradient = ((ours - theirs).abs() / (theirs.abs() + 1e-3 * theirs.abs().max())).max().item()
    return {
        "estimator": estimator,
        "elbo": f"importance-weighted bound, {PARTICLES} particles" + ", DReG" * (estimator == "iwae_dreg")
        if importance
        else next(cls.__name__ for cls in type(elbo).__mro__ if cls.__module__.startswith("pyro.")),
        "batch": len(inputs["x"]),
        "formula": formula(type(model), importance),
        "terms": {
            name: {"by_hand": hand_terms[name].item(), "pyro": pyro_terms[name].item()} for name in hand_terms
        },
        "value_difference": value,
        "gradient_difference": gradient,
        "agrees": value <= VALUE_TOLERANCE and gradient <= GRADIENT_TOLERANCE,
    }


def _gradient(loss: Tensor, parameters: list[Parameter]) -> Tensor:
    """The gradient of a loss by all parameters, end to end."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def _doubly_reparameterised(
    model: LatentVariableModel,
    inputs: dict[str, Tensor],
    latents: dict[str, Tensor],
    parameters: list[Parameter],
) -> Tensor:
    """The doubly reparameterised gradient by hand, for guides that share no parameter with the model.

    A parameter that the samples depend on is reached through them alone, by the squared weights; the others
    by the weights, at samples that are held.
    """
    held = {name: z.detach().requires_grad_() for name, z in latents.items()}
    bound = model.bound(**inputs, latents=held, kl="sampled").negative_elbo
    assert bound is not None
    w = (-bound).detach().softmax(0) / bound.shape[-1]  # of each particle, and of each image in the mean
    along = torch.autograd.grad(
        (w**2 * bound.shape[-1] * bound).sum(), list(held.values()), retain_graph=True
    )
    by_guide = torch.autograd.grad(
        list(latents.values()), parameters, along, retain_graph=True, allow_unused=True
    )
    by_model = torch.autograd.grad((w * bound).sum(), parameters, materialize_grads=True)
    return torch.cat([(m if g is None else g).flatten() for g, m in zip(by_guide, by_model, strict=True)])


def terms_of(model_trace: poutine.Trace, guide_trace: poutine.Trace, kl: KL) -> dict[str, Tensor]:
    """Pyro's side of every term, from the distributions at the traces' sites: name -> batch mean, unweighted.

    A latent that is enumerated leads with a dimension of its values: every term is then summed over them with
    their probabilities under the guide.
    """
    q = {
        name: site["fn"].log_prob(site["value"])
        for name, site in guide_trace.nodes.items()
        if site["type"] == "sample" and name in latents_of(guide_trace)
    }
    enumerated = {name: q[name] for name in q if guide_trace.nodes[name]["infer"].get("enumerate")}

    def expected(term: Tensor) -> Tensor:
        return (term * sum(enumerated.values()).exp()).sum(0).mean() if enumerated else term.mean()

    terms = {}
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample" or poutine.util.site_is_subsample(site):
            continue
        if name in q:
            guide_site = guide_trace.nodes[name]
            if guide_site["mask"] is False and isinstance(guide_site["fn"], dist.Delta):
                continue  # a code at a point, left out on both sides: no divergence is meant
            closed = kl == "closed" and name not in enumerated
            log_ratio = q[name] - site["fn"].log_prob(site["value"])
            if closed:
                with suppress(NotImplementedError):  # no closed form is known: Pyro takes the sample, too
                    log_ratio = kl_divergence(guide_site["fn"], site["fn"])
            terms[f"kl_{name}"] = expected(log_ratio)
        elif name == "x":
            terms["reconstruction"] = expected(-site["fn"].log_prob(site["value"]))
        else:  # an observed site beside the data is a penalty, and bears its name
            terms[name] = -site["fn"].log_prob(site["value"]).mean()
    for name, site in penalties(guide_trace).items():
        terms[name] = site["fn"].log_prob(site["value"]).mean()
    return terms


def formula(cls: type[LatentVariableModel], importance: bool) -> list[str]:
    """What is compared, as the model's own docstring writes it: its bound, and what is minimised."""
    paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    lines = [
        line for part in paragraphs if part.startswith(("-ELBO", "objective")) for line in part.split("\n")
    ]
    if importance:
        lines = [f"objective = -log 1/{PARTICLES} sum_k p(x, z_k) / q(z_k | x),   z_k ~ q(z | x)"]
    return lines


def page(result: dict[str, Any]) -> str:
    """The comparison as a student reads it."""
    lines = [
        f"{result['model']}, {result['elbo']}, {result['batch']} images, float64, nats per image",
        *(f"  {line}" for line in result["formula"]),
        f"  {'term':16} {'by hand':>22} {'Pyro':>22} {'difference':>12}",
    ]
    for name, term in result["terms"].items():
        difference = abs(term["by_hand"] - term["pyro"])
        lines.append(f"  {name:16} {term['by_hand']:22.15g} {term['pyro']:22.15g} {difference:12.1e}")
    lines.append(
        f"  relative difference: value {result['value_difference']:.1e} (at most {VALUE_TOLERANCE:.0e}),"
        f" gradient {result['gradient_difference']:.1e} (at most {GRADIENT_TOLERANCE:.0e}): "
        + ("agrees" if result["agrees"] else "DOES NOT AGREE")
    )
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
