"""Annealed importance sampling of log p(x), from a guide to the posterior."""

import pyro
import torch
from pyro import poutine
from torch import Tensor

from inference.elbo.traces import latent_sites
from inference.metrics.local_guide import LocalGuide
from ppl_models.base import LatentVariableModel

CHAINS = 16  # per image
LEAPFROGS = 5  # steps of a trajectory of Hamiltonian Monte Carlo
STEP = 0.2  # of the first trajectory, in standard deviations of the guide
ACCEPTANCE = 0.65  # target rate
FACTOR = 1.05  # by which a step grows or shrinks after a trajectory

Latents = dict[str, Tensor]


class _Target:
    """The densities q(z | x)^(1 - b) p(x, z)^b between a guide and the model, for fixed observations.

    Args:
        model: the model, whose parameters need no gradient.
        inputs: its inputs, `x` (batch, *shape) among them.
        local: changes the guide.
        chains: per image.
    """

    def __init__(self, model: LatentVariableModel, inputs: dict[str, Tensor], local: LocalGuide, chains: int):
        self.model, self.inputs, self.local, self.chains = model, inputs, local, chains

    def start(self) -> tuple[Latents, Latents]:
        """Samples the latents from the guide, (chains, batch, *event), and returns their scales too."""
        with torch.no_grad(), poutine.trace() as q, self._plate(), self.local:
            self.model.guide(**self.inputs)
        sites = latent_sites(q.trace)
        scales = {name: site["fn"].variance.sqrt().mean(0, keepdim=True) for name, site in sites.items()}
        return {name: site["value"] for name, site in sites.items()}, scales

    def log_densities(self, z: Latents) -> tuple[Tensor, Tensor]:
        """Returns log p(x, z) and log q(z | x), (chains, batch) each."""
        given = poutine.condition(data=z)
        with poutine.trace() as q, self._plate(), given, self.local:
            self.model.guide(**self.inputs)
        with poutine.trace() as p, self._plate(), given:
            self.model.model(**self.inputs)
        names = {"x", *z}
        log_p, log_q = (
            sum(site["fn"].log_prob(site["value"]) for name, site in t.trace.nodes.items() if name in names)
            for t in (p, q)
        )
        return log_p, log_q

    def with_gradient(self, z: Latents, b: float) -> tuple[Tensor, Tensor, Latents]:
        """Returns the densities at z, and the gradient of (1 - b) log q + b log p."""
        leaves = {name: value.detach().requires_grad_() for name, value in z.items()}
        with torch.enable_grad():
            log_p, log_q = self.log_densities(leaves)
            total = ((1 - b) * log_q + b * log_p).sum()
            gradients = torch.autograd.grad(total, list(leaves.values()))
        return log_p.detach(), log_q.detach(), dict(zip(leaves, gradients, strict=True))

    def _plate(self) -> pyro.plate:
        return pyro.plate("particles", self.chains, dim=-2)


def annealed_log_weights(
    model: LatentVariableModel,
    inputs: dict[str, Tensor],
    local: LocalGuide,
    temperatures: int,
    chains: int = CHAINS,
) -> Tensor:
    """Samples log-weights whose exponentials have the mean p(x).

    A chain starts at a sample of the guide and moves through q(z | x)^(1 - b) p(x, z)^b with b from 0 to 1,
    by a trajectory of Hamiltonian Monte Carlo per temperature. Neal 2001, Annealed Importance Sampling; Wu,
    Burda, Salakhutdinov and Grosse 2017, On the Quantitative Analysis of Decoder-Based Generative Models
    (arXiv 1611.04273). The step sizes are adapted in a first pass, whose weights are thrown away. In the
    second pass they are fixed, so that each transition leaves its density invariant.

    Args:
        model: the model, with continuous latents and parameters that need no gradient.
        inputs: its inputs, `x` (batch, *shape) among them.
        local: changes the guide.
        temperatures: the number of steps of b.
        chains: per image.

    Returns:
        Log-weights, (chains, batch).
    """
    target = _Target(model, inputs, local, chains)
    steps = inputs["x"].new_full((temperatures, len(inputs["x"])), STEP)
    _anneal(target, steps, adapt=True)
    return _anneal(target, steps, adapt=False)


def _anneal(target: _Target, steps: Tensor, adapt: bool) -> Tensor:
    """Runs the chains once and returns their log-weights; adapts the step sizes in place if asked to."""
    z, scales = target.start()
    with torch.no_grad():
        log_p, log_q = target.log_densities(z)
    log_w, accepted = torch.zeros_like(log_p), torch.ones_like(log_p)
    for t in range(len(steps)):
        log_w = log_w + (log_p - log_q) / len(steps)
        if adapt and t:
            steps[t] = steps[t - 1] * torch.where(accepted.mean(0) > ACCEPTANCE, FACTOR, 1 / FACTOR)
        z, log_p, log_q, accepted = _trajectory(target, z, scales, (t + 1) / len(steps), steps[t])
    return log_w


def _trajectory(
    target: _Target, z: Latents, scales: Latents, b: float, step: Tensor
) -> tuple[Latents, Tensor, Tensor, Tensor]:
    """Moves each chain by one trajectory of Hamiltonian Monte Carlo with Metropolis's test.

    Positions are in units of the guide's scales.

    Returns:
        The latents, log p(x, z), log q(z | x), and one for each chain that moved, (chains, batch).
    """

    def like(name: str, part: Tensor) -> Tensor:  # (chains, batch) or (batch,) against the latent
        return part.reshape(*part.shape, *[1] * (z[name].dim() - 2))

    def energy(log_p: Tensor, log_q: Tensor, momentum: Latents) -> Tensor:
        kinetic = sum(0.5 * m.square().flatten(2).sum(-1) for m in momentum.values())
        return kinetic - (1 - b) * log_q - b * log_p

    momentum = {name: torch.randn_like(value) for name, value in z.items()}
    old_p, old_q, slope = target.with_gradient(z, b)
    before, new = energy(old_p, old_q, momentum), z
    for _ in range(LEAPFROGS):
        half = {name: m + 0.5 * like(name, step) * scales[name] * slope[name] for name, m in momentum.items()}
        new = {name: new[name] + like(name, step) * scales[name] * half[name] for name in z}
        log_p, log_q, slope = target.with_gradient(new, b)
        momentum = {name: m + 0.5 * like(name, step) * scales[name] * slope[name] for name, m in half.items()}
    after = energy(log_p, log_q, momentum)
    accepted = (torch.rand_like(before).log() < before - after).to(before)  # false for a NaN

    def chosen(moved: Tensor, kept: Tensor) -> Tensor:
        return torch.where(accepted.bool(), moved, kept)

    kept = {name: torch.where(like(name, accepted).bool(), new[name], z[name]) for name in z}
    return kept, chosen(log_p, old_p), chosen(log_q, old_q), accepted
