"""log p(x) itself, where it can be had, beside the bounds on it: in closed form, or by quadrature.

python -m inference.exact RUN_DIR                      the first 100 test images of a finished run
python -m inference.exact RUN_DIR --images 500         more of them

By quadrature where the latents are one z of one or two dimensions and, summed over, what has finitely many
values. Everything is in float64. The figures are added to the run's results.json.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.errors import exit_on_interrupt

    exit_on_interrupt()

import copy
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from inference import report
from inference.backend.device import double_precision
from inference.cli.options import Parser, positive
from inference.data.batches import HeldOut
from inference.data.datasets import Dataset
from inference.errors import UserError, run_command
from inference.metrics.importance import importance_sample, sample_pool
from inference.rundir.run import Run
from ppl_models import MODELS, PPCA
from ppl_models.base import LatentVariableModel
from ppl_models.densities import kl_multivariate_normals

PARTICLES = [1, 10, 100, 1000]  # of the bounds beside log p(x); of one it is the ELBO
POINTS = 64  # of the first grid, along each axis
MOST_POINTS = 4096  # of the last
TOLERANCE = 1e-4  # nats by which twice as many points along each axis may change an image's log p(x)
OUTSIDE = 1e-9  # the share of p(x) that may lie on the grid's edge
AT_A_TIME = 2**19  # numbers in the largest tensor, which then stays in a processor's cache
FEWEST = 400  # points at a time, for the networks' sake


def main(arguments: list[str]) -> int:
    """Measure a finished run's log p(x) and the bounds on it; print them, and write them into the run."""
    parser = Parser(prog="python -m inference.exact", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a finished run")
    about = "how many, the first of the test set (default: 100)"
    parser.add_argument("--images", type=positive(int), default=100, metavar="N", help=about)
    about = "where the data set is now (default: where it was)"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=about)
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    run, config, data, model = Run.restore(given.run, given.data_dir)
    with run:
        results = run.results()
        if "negative_log_p" in results["test"]:
            raise UserError(
                f"{config['model']} has no latents: its own figures are of log p(x), see inference.svi"
            )
        if "negative_elbo" not in results["test"]:
            raise UserError(
                f"{config['model']} has no prior that it was trained with: nothing here is log p(x)"
            )
        with double_precision():
            results["exact"] = measure(model.double(), data, given.images)
        run.write("results.json", results)
        report.renew(run.folder, data)
    print(json.dumps(results["exact"], indent=2) if given.json else page(config, results["exact"]))
    return 0


@torch.no_grad()
def measure(model: LatentVariableModel, data: Dataset, images: int) -> dict[str, Any]:
    """`images`, `how` log p(x) was had, and `test`: the bounds and -log p(x), in nats per image.

    Of a linear model also `mean_field`: the bounds with the best guide of that kind, which is far from the
    posterior where the columns of W are not orthogonal, and the KL that the ELBO lacks.
    Every figure is of the same images, so that `mc_se`, the Monte-Carlo error, is all that a difference of
    two of them has. Raises UserError where log p(x) is not to be had.
    """
    test = HeldOut(replace(data, x_test=data.x_test[:images], y_test=None), type(model), torch.device("cpu"))
    x = next(test.chunks(images))[0]["x"]
    with torch.random.fork_rng([]), pyro.validation_enabled(False):
        torch.manual_seed(0)
        log_p, how = known(model, x)
    figures, more = importance_sample(model, test, PARTICLES).figures, {}
    figures["negative_log_p"] = {"value": -log_p.mean().item(), "se": (log_p.std() / len(x) ** 0.5).item()}
    if isinstance(model, PPCA):
        figures |= of_ppca(model, x, HeldOut(replace(data, x_test=data.x_train), PPCA, x.device))
        other = with_best_guide(model, "mean_field")
        more["mean_field"] = importance_sample(other, test, PARTICLES).figures | {
            "gap": {"value": gap(other, x)}
        }
    return {"images": len(x), "how": how, "test": figures, **more}


def known(model: LatentVariableModel, x: Tensor) -> tuple[Tensor, str]:
    """log p(x) of images (batch, *shape), (batch,), and how it was had. Raises UserError if it cannot be."""
    closed = model.log_likelihood(x)
    if closed is not None:
        return closed, "closed form"
    found = quadrature(model, x)
    axes = " x ".join([str(found.points)] * len(found.box))
    box = " x ".join(f"[{low:.1f}, {high:.1f}]" for low, high in found.box)
    words = f"quadrature, {axes} points over z in {box}"
    if found.values > 1:
        words += f", summed over {found.values} values of {found.summed}"
    return found.log_p, f"{words}; half as many along each axis are within {found.change:.0e} for every image"


class Quadrature(NamedTuple):
    """log p(x) as a sum over a grid of z."""

    log_p: Tensor  # (batch,)
    points: int  # along each axis
    box: list[tuple[float, float]]  # the grid's ends, an axis each
    change: float  # the most that an image's log p(x) differs with half as many points along each axis
    summed: str  # the latents of finitely many values
    values: int  # and how many together


@torch.no_grad()
def quadrature(model: LatentVariableModel, x: Tensor) -> Quadrature:
    """log p(x) = log sum_y integral p(x, y, z) dz of images (batch, *shape), z on a grid of equal steps.

    The sum over such a grid converges faster than any power of its step, for a smooth integrand that falls
    off before the grid's ends. The grid spans the prior's draws and the guide's, and is widened until what
    lies on its edge is nothing; its points are doubled along each axis until that changes nothing. Raises
    UserError where there is not one z of one or two dimensions, or the points would be too many.
    """
    name, dims, finite = _latents(model)
    draws = sample_pool(model, {"x": x}, 100, 10_000).latents[name].double()
    around = torch.cat([draws.reshape(-1, dims), model.prior(10_000)[name]])
    low, high = around.amin(0), around.amax(0)
    points, last, change = POINTS, None, math.inf
    while points <= MOST_POINTS:
        log_p, edge = _sum_over_grid(model, x, name, finite, low, high, points)
        if edge > OUTSIDE:
            low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
            last = None
            continue
        if last is not None:
            change = (log_p - last).abs().max().item()
            if change <= TOLERANCE:
                box = list(zip(low.tolist(), high.tolist(), strict=True))
                values = math.prod(len(support) for support in finite.values())
                return Quadrature(log_p, points, box, change, ", ".join(finite), values)
        last, points = log_p, 2 * points
    raise UserError(
        f"a grid of {points // 2} points along each axis is too coarse for this z: "
        "p(x | z) is too narrow for quadrature; see inference.evaluate for bounds"
    )


def _latents(model: LatentVariableModel) -> tuple[str, int, dict[str, Tensor]]:
    """The continuous latent's name and dimensions, and every value of the others, (values, 1, ...) each."""
    continuous, finite = {}, {}
    for name, site in model.generate(1).nodes.items():
        if site["type"] == "sample" and name != "x" and not site_is_subsample(site):
            if site["fn"].has_enumerate_support:
                finite[name] = site["fn"].enumerate_support(expand=False)
            else:
                continuous[name] = site["value"].numel()
    if len(continuous) != 1 or max(continuous.values()) > 2:
        found = ", ".join(f"{name} of {size}" for name, size in continuous.items()) or "none"
        raise UserError(
            "log p(x) is not to be had: quadrature takes one z of at most 2 dimensions, "
            f"the latents are {found}; train with --z-dim 2"
        )
    return *continuous.popitem(), finite


def _sum_over_grid(
    model: LatentVariableModel,
    x: Tensor,
    name: str,
    finite: dict[str, Tensor],
    low: Tensor,
    high: Tensor,
    points: int,
) -> tuple[Tensor, float]:
    """log p(x), (batch,), from so many points along each axis, and the largest share of it on the edge."""
    axes = [torch.linspace(a, b, points) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    z = torch.cartesian_prod(*axes).view(-1, len(axes))  # (points^d, d)
    on_edge = ((z == z.amin(0)) | (z == z.amax(0))).any(-1)
    cell = math.log(math.prod((axis[1] - axis[0]).item() for axis in axes))
    every = [dict(zip(finite, values, strict=True)) for values in itertools.product(*finite.values())]
    total, outermost = (x.new_full((len(x),), -math.inf) for _ in range(2))
    size = max(AT_A_TIME // x.numel(), FEWEST)
    for part, edge in zip(z.split(size), on_edge.split(size), strict=True):
        log_p = torch.stack([_log_joint(model, x, {name: part[:, None], **y}) for y in every]).logsumexp(0)
        torch.logaddexp(total, log_p.logsumexp(0), out=total)
        torch.logaddexp(outermost, log_p[edge].logsumexp(0), out=outermost)  # of no points it is log 0
    return total + cell, (outermost - total).exp().max().item()


def _log_joint(model: LatentVariableModel, x: Tensor, latents: dict[str, Tensor]) -> Tensor:
    """log p(x, latents), (points, batch), of images (batch, *shape) at latents (points, 1, d) or (1, d)."""
    trace = poutine.trace(poutine.condition(model.model, data=latents)).get_trace(x)
    densities = [trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"]) for name in ("x", *latents)]
    return sum(densities[1:], densities[0])


@torch.no_grad()
def of_ppca(model: PPCA, x: Tensor, train: HeldOut) -> dict[str, dict[str, float]]:
    """What else is known of a linear model, on images x and on the training set.

    `gap`, KL(q || posterior) by its closed form: what the ELBO lacks. `spread_with_exact_guide`, between the
    log-weights of a hundred draws of each image from the posterior itself. `train_negative_log_p` beside
    `train_negative_log_p_at_maximum_likelihood`.
    """
    exact = with_best_guide(model, "full")
    with torch.random.fork_rng([]):
        log_weights = sample_pool(exact, {"x": x}, 100, 10_000).log_weights
    x_train = torch.cat([inputs["x"] for inputs, _, _ in train.chunks(10_000)])
    best = copy.deepcopy(exact)
    best.solve(x_train)
    return {
        "gap": {"value": gap(model, x)},
        "spread_with_exact_guide": {"value": (log_weights.amax(0) - log_weights.amin(0)).max().item()},
        "train_negative_log_p": {"value": -model.log_likelihood(x_train).mean().item()},
        "train_negative_log_p_at_maximum_likelihood": {"value": -best.log_likelihood(x_train).mean().item()},
    }


def with_best_guide(model: PPCA, guide: Literal["full", "mean_field"]) -> PPCA:
    """The same p(x, z) with the best guide of that kind."""
    other = PPCA(model.shape, z_dim=model.z_dim, guide=guide)
    other.decoder, other.log_scale = model.decoder, model.log_scale
    other.solve_guide()
    return other


@torch.no_grad()
def gap(model: PPCA, x: Tensor) -> float:
    """KL(q(z | x) || p(z | x)) by its closed form, the mean over images x."""
    loc, covariance = model.posterior(x)
    q = model.encoder(x.flatten(1)), model.scale_tril
    return kl_multivariate_normals(*q, loc, torch.linalg.cholesky(covariance)).mean().item()


def page(config: dict[str, Any], exact: dict[str, Any]) -> str:
    """The figures as one reads them: from the ELBO to log p(x), each with its Monte-Carlo error."""
    test = exact["test"]
    names = {f"iwae_{m}": f"-IWAE-{m}" for m in PARTICLES} | {"negative_log_p": "-log p(x)"}
    names["iwae_1"] = "-ELBO"
    what = "point" if MODELS[config["model"]].observation == "points" else "image"
    n = exact["images"]
    lines = [f"{config['model']} on {config['data']}, {n} test {what}s, float64, nats per {what}"]
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
            "  with the best mean-field guide for the same W, whose columns are not made orthogonal by it:",
        ]
        for name, label in list(names.items())[:-1]:
            figure = exact["mean_field"][name]
            lines.append(f"  {label:12} {figure['value']:14.6f} ± {figure['mc_se']:.2g}")
        lines.append(f"  KL(q || posterior) in closed form is {exact['mean_field']['gap']['value']:.6f}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
