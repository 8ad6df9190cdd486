"""log p(x) itself, in closed form or by quadrature, and the bounds on the same images."""

import copy
from dataclasses import replace
from typing import Any, Literal

import pyro
import torch
from torch import Tensor

from inference.backend.device import double_precision
from inference.data.dataset import Dataset
from inference.data.held_out import HeldOut
from inference.errors import UserError
from inference.metrics.importance import importance_sample, sample_pool
from inference.metrics.quadrature import quadrature
from inference.rundir.run import Run
from inference.rundir.run_config import RunConfig
from ppl_models import PPCA
from ppl_models.base import LatentVariableModel
from ppl_models.densities import kl_multivariate_normals

PARTICLES = [1, 10, 100, 1000]  # of the bounds next to log p(x); with one the bound is the ELBO


def exact_of_run(run: Run, model: LatentVariableModel, data: Dataset, images: int) -> dict[str, Any]:
    """Computes log p(x) of a run's first test images, and the bounds, and adds them to its `results.json`.

    Args:
        run: the run, finished.
        model: its model. It is converted to float64.
        data: its data.
        images: the number of test images.

    Returns:
        The result of `measure`.

    Raises:
        UserError: the run has no bound to compare with, or log p(x) cannot be computed.
    """
    results, name = run.results(), run.config.model
    if "negative_log_p" in results["test"]:
        raise UserError(f"{name} has no latents: its own metrics are of log p(x). See inference.svi.")
    if "negative_elbo" not in results["test"]:
        raise UserError(
            f"log p(x) is undefined for {name}, which is trained without a prior. Choose another model."
        )
    with double_precision():
        results["exact"] = measure(model.double(), data, images)
    run.write("results.json", results)
    return results["exact"]


@torch.no_grad()
def measure(model: LatentVariableModel, data: Dataset, images: int) -> dict[str, Any]:
    """Computes log p(x) and the bounds of the first test images, in nats per image.

    All metrics are of the same images, so that a difference of two of them has the Monte Carlo error `mc_se`
    only.

    Args:
        model: the model, in float64.
        data: its data.
        images: the number of test images.

    Returns:
        `images`; `how` log p(x) was computed; `test`, the bounds and `negative_log_p`. For a linear model
        also `mean_field`: the same bounds with the best mean-field guide, and `gap`, the KL divergence from
        the posterior. That guide is far from the posterior if the columns of W are not orthogonal.

    Raises:
        UserError: log p(x) cannot be computed.
    """
    test = HeldOut(replace(data, x_test=data.x_test[:images], y_test=None), type(model), torch.device("cpu"))
    x = next(test.chunks(images))[0]["x"]
    with torch.random.fork_rng([]), pyro.validation_enabled(False):
        torch.manual_seed(0)
        log_p, how = log_likelihood(model, x)
    metrics, more = importance_sample(model, test, PARTICLES).metrics, {}
    metrics["negative_log_p"] = {"value": -log_p.mean().item(), "se": (log_p.std() / len(x) ** 0.5).item()}
    if isinstance(model, PPCA):
        metrics |= ppca_metrics(model, x, HeldOut(replace(data, x_test=data.x_train), PPCA, x.device))
        other = with_best_guide(model, "mean_field")
        more["mean_field"] = importance_sample(other, test, PARTICLES).metrics | {
            "gap": {"value": kl_to_posterior(other, x)}
        }
    return {"images": len(x), "how": how, "test": metrics, **more}


def log_likelihood(model: LatentVariableModel, x: Tensor) -> tuple[Tensor, str]:
    """Computes log p(x) in closed form if the model has one, or else by quadrature.

    Args:
        model: the model, in float64.
        x: images (batch, *shape).

    Returns:
        log p(x) in nats, (batch,), and how it was computed.

    Raises:
        UserError: neither is possible.
    """
    closed = model.log_likelihood(x)
    if closed is not None:
        return closed, "closed form"
    found = quadrature(model, x)
    return found.log_p, str(found)


@torch.no_grad()
def ppca_metrics(model: PPCA, x: Tensor, train: HeldOut) -> dict[str, dict[str, float]]:
    """Computes metrics that only a linear model has.

    Args:
        model: the model, in float64.
        x: test images (batch, *shape).
        train: the training set.

    Returns:
        `gap`, the KL divergence of the guide from the posterior in closed form, which is the gap of the ELBO;
        `spread_with_exact_guide`, the range of an image's log-weights over a hundred samples from the
        posterior; `train_negative_log_p` and `train_negative_log_p_at_maximum_likelihood`.
    """
    exact = with_best_guide(model, "full")
    with torch.random.fork_rng([]):
        log_weights = sample_pool(exact, {"x": x}, 100, 10_000).log_weights
    x_train = torch.cat([inputs["x"] for inputs, _, _ in train.chunks(10_000)])
    best = copy.deepcopy(exact)
    best.solve(x_train)
    return {
        "gap": {"value": kl_to_posterior(model, x)},
        "spread_with_exact_guide": {"value": (log_weights.amax(0) - log_weights.amin(0)).max().item()},
        "train_negative_log_p": {"value": -model.log_likelihood(x_train).mean().item()},
        "train_negative_log_p_at_maximum_likelihood": {"value": -best.log_likelihood(x_train).mean().item()},
    }


def with_best_guide(model: PPCA, guide: Literal["full", "mean_field"]) -> PPCA:
    """Returns a model with the same p(x, z) and the best guide of the given kind."""
    other = PPCA(model.shape, z_dim=model.z_dim, guide=guide)
    other.decoder, other.log_scale = model.decoder, model.log_scale
    other.solve_guide()
    return other


@torch.no_grad()
def kl_to_posterior(model: PPCA, x: Tensor) -> float:
    """Returns KL(q(z | x) || p(z | x)) in closed form, the mean over images x, (batch, *shape), in nats."""
    loc, covariance = model.exact_posterior(x)
    q = model.encoder(x.flatten(1)), model.scale_tril
    return kl_multivariate_normals(*q, loc, torch.linalg.cholesky(covariance)).mean().item()


def format_exact(config: RunConfig, exact: dict[str, Any]) -> str:
    """Formats the result of `measure` as lines from the ELBO to log p(x), each with its Monte Carlo error.

    Args:
        config: the configuration of the run.
        exact: the result of `measure`.
    """
    test = exact["test"]
    names = {f"iwae_{m}": f"-IWAE-{m}" for m in PARTICLES} | {"negative_log_p": "-log p(x)"}
    names["iwae_1"] = "-ELBO"
    what = config.data_kind.noun
    n = exact["images"]
    lines = [f"{config.model} on {config.data}, {n} test {what}s, float64, nats per {what}"]
    for name, label in names.items():
        error = f" ± {test[name]['mc_se']:.2g}" if "mc_se" in test[name] else ""
        lines.append(f"  {label:12} {test[name]['value']:14.6f}{error}")
    lines.append(f"  by {exact['how']}")
    if "gap" in test:
        short = (
            test["train_negative_log_p"]["value"]
            - test["train_negative_log_p_at_maximum_likelihood"]["value"]
        )
        spread = test["spread_with_exact_guide"]["value"]
        lines += [
            f"  KL(q || posterior) in closed form is {test['gap']['value']:.6f}",
            f"  with the posterior as its guide the log-weights spread over {spread:.0e}",
            f"  on the training set log p(x) is {short:.1e} below its maximum",
            "  with the best mean-field guide for the same W, whose columns need not be orthogonal:",
        ]
        for name, label in list(names.items())[:-1]:
            metric = exact["mean_field"][name]
            lines.append(f"  {label:12} {metric['value']:14.6f} ± {metric['mc_se']:.2g}")
        lines.append(f"  KL(q || posterior) in closed form is {exact['mean_field']['gap']['value']:.6f}")
    return "\n".join(lines)
