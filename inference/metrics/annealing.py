"""Annealed importance sampling of log p(x): from a guide to the posterior, and back."""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import pairwise
from typing import NamedTuple

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
STEEPNESS = 4.0  # of the schedule of temperatures


class _State(NamedTuple):
    """Where the chains are, and the densities and their gradients there.

    Attributes:
        z: all latents, (chains, batch, d).
        log_p: log p(x, z), (chains, batch).
        log_q: log q(z | x), (chains, batch).
        grad_p: the gradient of log p(x, z) in z, (chains, batch, d).
        grad_q: the gradient of log q(z | x) in z, (chains, batch, d).
    """

    z: Tensor
    log_p: Tensor
    log_q: Tensor
    grad_p: Tensor
    grad_q: Tensor


class Annealing:
    """Annealed importance sampling for fixed observations, in both directions.

    A chain visits the densities q(z | x)^(1 - b) p(x, z)^b at the temperatures b between 0 and 1, and makes a
    trajectory of Hamiltonian Monte Carlo with Metropolis's test at each. With one step of b, from 0 to 1, it
    makes no trajectory, and `forward` is importance sampling from the guide.

    The step sizes, per image and temperature, and the scales of the latents are those of a first pass from
    the guide, whose samples are thrown away. They are fixed afterwards, so that each transition is reversible
    with respect to its density, and the weights have no bias.

    Neal 2001, Annealed Importance Sampling; Grosse, Ghahramani and Adams 2015, Sandwiching the Marginal
    Likelihood Using Bidirectional Monte Carlo (arXiv 1511.02543); Wu, Burda, Salakhutdinov and Grosse 2017,
    On the Quantitative Analysis of Decoder-Based Generative Models (arXiv 1611.04273). Their chains start at
    the prior or at an encoder, and they adapt the step sizes in the pass of the estimate.

    Args:
        model: the model, with continuous latents and parameters that need no gradient.
        inputs: its inputs, `x` (batch, *shape) among them.
        temperatures: the number of steps of b from 0 to 1.
        chains: per image.
        local: changes the guide; None means the guide itself.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        inputs: dict[str, Tensor],
        temperatures: int,
        chains: int = CHAINS,
        local: LocalGuide | None = None,
    ):
        self.model, self.inputs, self.chains, self.local = model, inputs, chains, local
        self.b = schedule(temperatures)
        sites = self._sample_guide()
        self.shapes = {name: site["value"].shape[2:] for name, site in sites.items()}
        self.scales = _flat({name: site["fn"].variance.sqrt() for name, site in sites.items()}).mean(0)
        self.steps = self._adapted_steps()

    def forward(self) -> Tensor:
        """Moves chains from samples of the guide to the posterior.

        Returns:
            Log-weights, (chains, batch), in float64. Their exponentials have the mean p(x).
        """
        state = self._at(self._start())
        log_w = torch.zeros_like(state.log_p, dtype=torch.float64)
        for t, (b, next_b) in enumerate(pairwise(self.b)):
            if t:
                state, _ = self._move(state, b, self.steps[t - 1])
            log_w += (next_b - b) * (state.log_p - state.log_q)
        return log_w

    def reverse(self, posterior: dict[str, Tensor]) -> Tensor:
        """Moves chains from exact samples of the posterior to the guide, through the same densities.

        Only data that the model has generated come with such samples: the latents that generated them.

        Args:
            posterior: a sample of p(z | x) for each observation, (batch, *event) by name of the latent. All
                chains of an observation start there.

        Returns:
            Log-weights, (chains, batch), in float64. The exponentials of their negatives have the mean
            1 / p(x).
        """
        z = _flat({name: posterior[name].unsqueeze(0) for name in self.shapes})
        state = self._at(z.expand(self.chains, -1, -1))
        log_w = torch.zeros_like(state.log_p, dtype=torch.float64)
        for t in reversed(range(len(self.b) - 1)):
            log_w += (self.b[t + 1] - self.b[t]) * (state.log_p - state.log_q)
            if t:
                state, _ = self._move(state, self.b[t], self.steps[t - 1])
        return log_w

    def _adapted_steps(self) -> list[Tensor]:
        """Returns a step size for each temperature below 1, (batch,), from a pass of chains."""
        state, steps = self._at(self._start()), []
        step = state.log_p.new_full(state.log_p.shape[1:], STEP)
        for b in self.b[1:-1]:
            steps.append(step)
            state, accepted = self._move(state, b, step)
            step = step * torch.where(accepted.to(step).mean(0) > ACCEPTANCE, FACTOR, 1 / FACTOR)
        return steps

    def _move(self, state: _State, b: float, step: Tensor) -> tuple[_State, Tensor]:
        """Moves each chain by one trajectory of Hamiltonian Monte Carlo with Metropolis's test.

        Args:
            state: where the chains are.
            b: the temperature.
            step: of the trajectory, in units of the scales, (batch,).

        Returns:
            Where the chains are then, and which of them moved, (chains, batch).
        """
        size = step.unsqueeze(-1) * self.scales

        def energy(at: _State, momentum: Tensor) -> Tensor:
            return 0.5 * momentum.square().sum(-1) - (1 - b) * at.log_q - b * at.log_p

        def half_kick(at: _State) -> Tensor:
            return 0.5 * size * ((1 - b) * at.grad_q + b * at.grad_p)

        momentum = torch.randn_like(state.z)
        before, new = energy(state, momentum), state
        for _ in range(LEAPFROGS):
            momentum = momentum + half_kick(new)
            new = self._at(new.z + size * momentum)
            momentum = momentum + half_kick(new)
        accepted = torch.rand_like(before).log() < before - energy(new, momentum)  # false for a NaN

        def chosen(moved: Tensor, kept: Tensor) -> Tensor:
            return torch.where(accepted if moved.dim() == 2 else accepted.unsqueeze(-1), moved, kept)

        return _State(*map(chosen, new, state)), accepted

    def _at(self, z: Tensor) -> _State:
        """Returns the state of chains at z, (chains, batch, d)."""
        z = z.detach().requires_grad_()
        parts = z.split([math.prod(shape) for shape in self.shapes.values()], dim=-1)
        latents = {
            name: part.reshape(*z.shape[:2], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        given, local = poutine.condition(data=latents), self.local or nullcontext()
        with torch.enable_grad():
            with poutine.trace() as q, self._plate(), given, local:
                self.model.guide(**self.inputs)
            with poutine.trace() as p, self._plate(), given:
                self.model.model(**self.inputs)
            log_p, log_q = _log_density(p.trace, ("x", *latents)), _log_density(q.trace, latents)
            (grad_q,) = torch.autograd.grad(log_q.sum(), z, retain_graph=True)
            (grad_p,) = torch.autograd.grad(log_p.sum(), z)
        return _State(z.detach(), log_p.detach(), log_q.detach(), grad_p, grad_q)

    def _start(self) -> Tensor:
        """Samples the latents from the guide, (chains, batch, d)."""
        return _flat({name: site["value"] for name, site in self._sample_guide().items()})

    def _sample_guide(self) -> dict[str, dict]:
        """Returns the sites of the latents in a trace of the guide."""
        with torch.no_grad(), poutine.trace() as q, self._plate(), self.local or nullcontext():
            self.model.guide(**self.inputs)
        return latent_sites(q.trace)

    def _plate(self) -> pyro.plate:
        return pyro.plate("particles", self.chains, dim=-2)


def schedule(temperatures: int) -> list[float]:
    """Returns temperatures from 0 to 1 that are close together at both ends, one more than their steps.

    They are a sigmoid function of equally spaced numbers, as in the code of Wu et al. 2017.
    """
    b = torch.linspace(-STEEPNESS, STEEPNESS, temperatures + 1, dtype=torch.float64).sigmoid()
    return ((b - b[0]) / (b[-1] - b[0])).tolist()


def _log_density(trace: poutine.Trace, names: Iterable[str]) -> Tensor:
    """Returns the sum of the log densities at some sites of a trace, (chains, batch)."""
    terms = [trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"]) for name in names]
    return sum(terms[1:], terms[0])


def _flat(parts: dict[str, Tensor]) -> Tensor:
    """Concatenates latents (chains, batch, *event) to (chains, batch, d)."""
    return torch.cat([part.reshape(*part.shape[:2], -1) for part in parts.values()], dim=-1)
