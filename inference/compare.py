"""Paper against program: the bound derived by hand beside Pyro's, term by term, in value and in gradient.

python -m inference.compare                    every model, every estimator that applies to it
python -m inference.compare --model ssvae      one model
python -m inference.compare --json             the same as JSON

Both sides see the same noise: Pyro's estimator runs the guide, and the bound by hand is worked out from the
values that it sampled, with their graph. In float64 they agree to rounding, or the exit status is 1.
"""

import json
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from inference.errors import run_command, unknown
from inference.estimators import ESTIMATORS
from inference.options import Parser, positive, seed
from ppl_models import MODELS
from ppl_models.base import KL, LatentVariableModel, latents_of

VALUE_TOLERANCE = 1e-9  # of the sum of the terms' magnitudes
GRADIENT_TOLERANCE = 1e-7  # of |g| + 1e-3 max|g|, element by element: some true gradients are zero


def main(arguments: list[str]) -> int:
    """Print the comparison. Returns 0 where everything agrees, else 1."""
    parser = Parser(prog="python -m inference.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", metavar="NAME", help=f"one of {', '.join(MODELS)} (default: all)")
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
    results = []
    for name in [given.model] if given.model else MODELS:
        pyro.set_rng_seed(given.seed)
        model = MODELS[name]((1, 28, 28), 10).double()
        inputs = example_inputs(model, given.batch_size)
        results += [{"model": name, **compare(model, inputs, estimator)} for estimator in model.estimators]
    print(json.dumps(results, indent=2) if given.json else "\n\n".join(map(page, results)))
    return 0 if all(result["agrees"] for result in results) else 1


def example_inputs(model: LatentVariableModel, batch: int) -> dict[str, Tensor]:
    """Random inputs of the kinds that the model names, in its own precision; two labelled images a class."""
    dtype, classes = next(model.parameters()).dtype, model.classes

    def images(n: int) -> Tensor:
        grey = torch.rand(n, *model.shape)
        return (grey.bernoulli() if model.pixels == "binary" else grey).to(dtype)

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
    """
    elbo, kl = ESTIMATORS[estimator].elbo(), ESTIMATORS[estimator].kl
    model_tracer, guide_tracer = poutine.trace(model.model), poutine.trace(model.guide)
    objective = elbo.differentiable_loss(model_tracer, guide_tracer, **inputs) / len(inputs["x"])
    guide_trace = guide_tracer.trace
    bound = model.bound(**inputs, latents=latents_of(guide_trace), kl=kl)

    pyro_terms = {**terms_of(model_tracer.trace, guide_trace, kl), "objective": objective}
    hand_terms = {name: term.mean() for name, term in {**bound.terms, **bound.penalties}.items()}
    hand_terms["objective"] = bound.objective
    if hand_terms.keys() != pyro_terms.keys():
        raise RuntimeError(f"terms by hand are {sorted(hand_terms)}, Pyro's {sorted(pyro_terms)}")
    scale = sum(
        abs(term.item()) * bound.weights.get(name, 1.0)
        for name, term in hand_terms.items()
        if name != "objective"
    )
    value = max(abs(hand_terms[name].item() - pyro_terms[name].item()) for name in hand_terms) / scale

    parameters = [p for p in model.parameters() if p.requires_grad]
    by_hand, by_pyro = (
        torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
            ]
        )
        for loss in (bound.objective, objective)
    )
    gradient = ((by_hand - by_pyro).abs() / (by_pyro.abs() + 1e-3 * by_pyro.abs().max())).max().item()
    return {
        "estimator": estimator,
        "elbo": next(cls.__name__ for cls in type(elbo).__mro__ if cls.__module__.startswith("pyro.")),
        "batch": len(inputs["x"]),
        "terms": {
            name: {"by_hand": hand_terms[name].item(), "pyro": pyro_terms[name].item()} for name in hand_terms
        },
        "value_difference": value,
        "gradient_difference": gradient,
        "agrees": value <= VALUE_TOLERANCE and gradient <= GRADIENT_TOLERANCE,
    }


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
            closed = kl == "closed" and name not in enumerated
            guide_fn = guide_trace.nodes[name]["fn"]
            log_ratio = (
                kl_divergence(guide_fn, site["fn"])
                if closed
                else q[name] - site["fn"].log_prob(site["value"])
            )
            terms[f"kl_{name}"] = expected(log_ratio)
        elif name == "x":
            terms["reconstruction"] = expected(-site["fn"].log_prob(site["value"]))
        else:  # an observed site beside the data is a penalty, and bears its name
            terms[name] = -site["fn"].log_prob(site["value"]).mean()
    return terms


def page(result: dict[str, Any]) -> str:
    """The comparison as a student reads it."""
    lines = [
        f"{result['model']}, {result['elbo']}, {result['batch']} images, float64, nats per image",
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
