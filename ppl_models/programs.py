"""A pair of Pyro programs, and the methods that run them: encode, decode, sample and others."""

import itertools
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import one_hot

_PREFIXES = itertools.count()  # of the instances in Pyro's parameter store


class MostProbable(poutine.messenger.Messenger):
    """Sets every latent to its distribution's mode instead of a sample."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            try:
                msg["value"] = msg["fn"].mode
            except NotImplementedError:  # a Delta has no mode, but its mean is its only value
                msg["value"] = msg["fn"].mean
            msg["done"] = True


def registers_parameters(program: Callable[..., None]) -> Callable[..., None]:
    """Makes a model or guide register its parameters with Pyro when `SVI` asks for them.

    `SVI` records parameters in a trace of param sites only. Outside such a trace the program registers
    nothing, so that Pyro's parameter store does not change.
    """

    @wraps(program)
    def registered(self: Any, *args: Any, **kwargs: Any) -> None:
        if any(getattr(messenger, "param_only", False) for messenger in _PYRO_STACK):
            self.register_parameters()
        program(self, *args, **kwargs)

    return registered


def latent_sites(trace: poutine.Trace) -> dict[str, dict[str, Any]]:
    """Returns the sites of a trace that are sampled, not observed, by name."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    }


def latents_of(trace: poutine.Trace) -> dict[str, Tensor]:
    """Returns the sampled values of a trace by site name, with their autograd graph."""
    return {name: site["value"] for name, site in latent_sites(trace).items()}


@torch.no_grad()
def sample_latents(model: Any, **inputs: Tensor) -> dict[str, Tensor]:
    """Samples the latents from a model's guide, and enumerates the latents that the guide enumerates.

    Args:
        model: a `LatentVariableModel`.
        **inputs: the inputs of its guide.

    Returns:
        Site name -> `(..., batch, *event)`; an enumerated latent has all its values in the first dimension.
    """
    with poutine.trace() as tracer, poutine.enum(first_available_dim=-2):
        model.guide(**inputs)
    return latents_of(tracer.trace)


class ProgramPair(nn.Module):
    """A generative model and a guide as Pyro programs, with the methods that follow from them.

    `LatentVariableModel` documents the attributes.
    """

    inputs: ClassVar[tuple[str, ...]]
    has_label: ClassVar[bool]
    has_mean: ClassVar[bool]

    def __init__(self, shape: tuple[int, ...], classes: int = 0):
        super().__init__()
        self._prefix = next(_PREFIXES)
        self.shape, self.classes = tuple(shape), classes

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in {"model", "guide"} & vars(cls).keys():
            setattr(cls, name, registers_parameters(vars(cls)[name]))

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the weak references that Pyro's store adds to parameters: they cannot be pickled."""
        for parameter in self.parameters():
            vars(parameter).pop("unconstrained", None)
        return vars(self).copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Gives a copied or unpickled instance a new prefix in Pyro's parameter store."""
        super().__setstate__(state)
        self._prefix = next(_PREFIXES)

    def register_parameters(self) -> None:
        """Registers every trainable parameter in Pyro's parameter store, as `pyro.module` does.

        A parameter that replaced another one (`load_state_dict(assign=True)`) replaces it in the store.

        Raises:
            ValueError: A parameter is not contiguous.
        """
        store = pyro.get_param_store()
        for name, parameter in self.named_parameters():
            full = f"{type(self).__name__}-{self._prefix}.{name}"
            if full in store and store[full] is not parameter:
                del store[full]
            if parameter.requires_grad and pyro.param(full, parameter) is not parameter:
                raise ValueError(f"{name} is not contiguous: Pyro would train a copy. Make it contiguous.")

    def model(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        """The generative process, p(x, latents), for a batch of observations."""
        raise NotImplementedError

    def guide(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        """The approximate posterior, q(latents | x)."""
        raise NotImplementedError

    def _at_modes(self, x: Tensor, **inputs: Tensor) -> poutine.Trace:
        """Traces the guide with every latent at its mode, given the modes of the latents before it."""
        with poutine.trace() as tracer, MostProbable():
            self.guide(x, **inputs)
        return tracer.trace

    @torch.no_grad()
    def posterior(self, x: Tensor, **inputs: Tensor) -> dict[str, Distribution]:
        """Returns the guide's distribution of each latent, without gradients.

        A latent that depends on other latents is conditioned on their modes: for q(y | x) q(z | x, y) these
        are q(y | x) and q(z | x, argmax_y q(y | x)). `encode` returns the modes of the same distributions.

        Args:
            x: the observations, `(batch, *shape)`.
            **inputs: the other inputs of the guide, such as labels `y` `(batch,)`.

        Returns:
            Site name -> distribution with the batch shape `(batch,)`; empty if the model has no latents.

        Example:
            >>> from ppl_models import VAE
            >>> VAE((1, 28, 28), z_dim=10).posterior(torch.zeros(5, 1, 28, 28))["z"].mean.shape
            torch.Size([5, 10])
        """
        return {name: site["fn"] for name, site in latent_sites(self._at_modes(x, **inputs)).items()}

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the modes of the guide's distributions, the most probable latents.

        Args:
            x: the observations, `(batch, *shape)`.
            y: labels `(batch,)`, for a model with the input `y`.

        Returns:
            Site name -> `(batch, *event)`.
        """
        return latents_of(self._at_modes(x, **({} if y is None else {"y": y})))

    @torch.no_grad()
    def prior(self, n: int) -> dict[str, Tensor]:
        """Samples the latents, but not x, from the generative process: site name -> `(n, *event)`."""
        placeholder = next(self.parameters()).new_zeros(n, *self.shape)
        return latents_of(self.generate(n, {"x": placeholder}))

    @torch.no_grad()
    def decode(self, latents: Mapping[str, Tensor], y: Tensor | None = None) -> Tensor:
        """Returns the mean of p(x | latents, y), or a sample if `has_mean` is False.

        Args:
            latents: values `(batch, *event)` by site name; the others are sampled from the prior.
            y: labels `(batch,)`, for a model with labels.

        Returns:
            `(batch, *shape)`.

        Raises:
            NotImplementedError: The model has no latents.
            ValueError: `latents` is empty, so that the batch size is unknown.
        """
        if not latents:
            name = type(self).__name__
            if not self.prior(1):
                raise NotImplementedError(f"{name} has no latents. Call sample(n) or log_likelihood(x).")
            raise ValueError(f"No latents of {name} are given. Name at least one, or call sample(n).")
        return self.sample(len(next(iter(latents.values()))), y, latents, noise=False)

    @torch.no_grad()
    def sample(
        self, n: int, y: Tensor | None = None, latents: Mapping[str, Tensor] | None = None, noise: bool = True
    ) -> Tensor:
        """Samples x from the generative process.

        Args:
            n: the number of samples.
            y: labels `(n,)`, for a model with labels. If the model has the input `y` and no labels are given,
                they are uniform random classes.
            latents: values `(n, *event)` by site name; the others are sampled from the prior.
            noise: whether to sample p(x | latents) or to return its mean. Ignored if `has_mean` is False.

        Returns:
            `(n, *shape)`.

        Raises:
            NotImplementedError: The model has no p(x), such as a classifier without a generative model.
            ValueError: Labels are given to a model without labels.
        """
        site = self.generate(n, latents, y).nodes.get("x")
        if site is None:
            name = type(self).__name__
            raise NotImplementedError(f"{name} has no p(x) with these options. Call classify(x).")
        return site["value"] if noise or not self.has_mean else site["fn"].mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns `decode(encode(x, y), y)`, `(batch, *shape)`.

        Raises:
            NotImplementedError: The model has no latents.
        """
        return self.decode(self.encode(x, y), y)

    @torch.no_grad()
    def interpolate(self, codes: Mapping[str, Tensor], fractions: Tensor) -> dict[str, Tensor]:
        """Interpolates linearly from the first half of a batch of codes to its second half.

        Args:
            codes: site name -> `(2 * pairs, *event)`.
            fractions: positions on the line, 0 at the first code and 1 at the second, `(steps,)`.

        Returns:
            Site name -> `(pairs * steps, *event)`, pair by pair.
        """

        def line(z: Tensor) -> Tensor:
            start, end = (half.unsqueeze(1) for half in z.chunk(2))
            t = fractions.to(z).view(-1, *[1] * (z.dim() - 1))
            return ((1 - t) * start + t * end).flatten(0, 1)

        return {name: line(z) for name, z in codes.items()}

    def generate(
        self, n: int, latents: Mapping[str, Tensor] | None = None, y: Tensor | None = None
    ) -> poutine.Trace:
        """Traces the model with x unobserved.

        Args:
            n: the number of data points.
            latents: values of sites `(n, *event)` by name; a value of x is kept too.
            y: labels `(n,)`, for a model with labels.

        Raises:
            ValueError: Labels are given to a model without labels.
        """
        given, inputs, like = dict(latents or {}), {}, next(self.parameters())
        if y is not None and not self.has_label:
            raise ValueError(f"{type(self).__name__} has no label. Call sample without y.")
        if "y" in self.inputs:
            inputs["y"] = torch.randint(self.classes, (n,), device=like.device) if y is None else y
        elif y is not None:  # the label is a latent: one-hot
            given["y"] = one_hot(y, self.classes).to(like.dtype)
        x = like.new_empty(n, *self.shape)
        program = poutine.condition(poutine.uncondition(self.model), data=given)
        return poutine.trace(program).get_trace(x, **inputs)
