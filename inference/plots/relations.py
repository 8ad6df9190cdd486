"""The dependency graph of a Pyro program, from one run: sites, inputs, parameters, networks and plates.

Like `pyro.infer.inspect`, this module tracks the provenance of values to find which sites a site depends on.
It also tracks the inputs of a guide, parameters outside of networks, and the names of the model's networks
that a value passes through.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import ExpandedDistribution, Independent, MaskedDistribution
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn


@dataclass(frozen=True)
class Node:
    """A random variable, an input or a parameter."""

    name: str
    kind: str  # "random", "input" or "parameter"
    observed: bool = False
    distribution: str = ""  # of a random variable
    masked: bool = False  # whether its log density is left out of the objective
    plates: tuple[str, ...] = ()  # from the outermost to the innermost

    @property
    def is_deterministic(self) -> bool:
        """Whether the variable takes a single value."""
        return self.distribution == "Delta"


@dataclass(frozen=True)
class Edge:
    """A dependency of `child` on `parent`, directly or through `networks` in this order."""

    parent: str
    child: str
    networks: tuple[str, ...] = ()


@dataclass
class Relations:
    """The dependency graph of one program."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    plates: dict[str, int] = field(default_factory=dict)  # name -> size

    def parents(self, name: str) -> list[str]:
        """Returns the parents of a node except parameters, in the order of the nodes."""
        found = {edge.parent for edge in self.edges if edge.child == name}
        return [other for other, node in self.nodes.items() if other in found and node.kind != "parameter"]


def relations(
    program: Callable[..., Any], model: nn.Module, inputs: Mapping[str, Tensor], tracked: set[str]
) -> Relations:
    """Runs a program and returns its dependency graph. Preserves the RNG state.

    Args:
        program: `model.model` or `model.guide`, conditioned or not.
        model: the model, whose networks and parameters are tracked.
        inputs: the arguments of the program.
        tracked: names of inputs to track; they become nodes if anything depends on them.

    Returns:
        The graph. A site that is observed with an input has the name of that input.
    """
    own = {name for name, _ in model.named_parameters(recurse=False)}
    sources = {name: _track(value, name) if name in tracked else value for name, value in inputs.items()}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(_track_networks_and_parameters(model))
        tracer = stack.enter_context(poutine.trace())
        stack.enter_context(_TrackSites())
        program(**sources)
        return _read(tracer.trace, own)


def _track(value: Tensor, name: str, networks: tuple[str, ...] = ()) -> Tensor:
    return ProvenanceTensor(detach_provenance(value), frozenset({(name, networks)}))


class _TrackSites(poutine.messenger.Messenger):
    """Marks the value of each site with the name of the site, in place of the site's own parents."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            msg["infer"]["display_name"] = _display_name(msg)
            msg["value"] = _track(msg["value"], msg["infer"]["display_name"])


def _display_name(msg: Any) -> str:
    """Returns the name of a site, or of the input that it is observed with."""
    source = get_provenance(msg["value"]) if msg["is_observed"] else ()
    return next((name for name, networks in source if not networks), msg["name"])


@contextmanager
def _track_networks_and_parameters(model: nn.Module) -> Iterator[None]:
    """Makes each network of the model add its name to the provenance of its output; tracks own parameters."""
    inside: dict[str, frozenset] = {}

    def enter(name: str) -> Callable[..., tuple]:
        def hook(module: nn.Module, inputs: tuple) -> tuple:
            inside[name] = get_provenance(list(inputs))
            return tuple(detach_provenance(list(inputs)))

        return hook

    def leave(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            through = frozenset((source, (*networks, name)) for source, networks in inside[name])
            return ProvenanceTensor(output, through)

        return hook

    hooks = []
    for name, child in model.named_children():
        hooks += [child.register_forward_pre_hook(enter(name)), child.register_forward_hook(leave(name))]
    own = dict(model.named_parameters(recurse=False))
    for name, parameter in own.items():
        delattr(model, name)
        model.__dict__[name] = _track(parameter.detach(), name)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in own.items():
            del model.__dict__[name]
            model.register_parameter(name, parameter)


def _read(trace: poutine.Trace, parameters: set[str]) -> Relations:
    """Builds the graph from the trace of a tracked run."""
    found = Relations()
    sites = [s for s in trace.nodes.values() if s["type"] == "sample" and not site_is_subsample(s)]
    sites = [s for s in sites if not s["infer"].get("is_auxiliary")]  # a penalty is not a variable
    named = {site["infer"]["display_name"] for site in sites}
    for site in sites:
        name = site["infer"]["display_name"]
        plates = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
        found.plates |= {frame.name: frame.size for frame in plates}
        inside = tuple(frame.name for frame in plates)
        sources = get_provenance(site["fn"].log_prob(detach_provenance(site["value"])))
        for source, networks in sorted(sources):
            if source not in named and source not in found.nodes:
                kind = "parameter" if source in parameters else "input"
                place = () if kind == "parameter" else inside[:1]
                found.nodes[source] = Node(source, kind, kind == "input", plates=place)
            longer = any(source == other and set(networks) < set(path) for other, path in sources)
            if source != name and not longer:  # a path that is part of a longer one is left out
                found.edges.append(Edge(source, name, networks))
        found.nodes[name] = Node(
            name,
            "random",
            site["is_observed"],
            _distribution(site["fn"]),
            site["mask"] is False,
            inside,
        )
    return found


def _distribution(fn: Any) -> str:
    """Returns the name of a distribution's family, without `Independent`, `expand` and `mask` wrappers."""
    while isinstance(fn, Independent | ExpandedDistribution | MaskedDistribution):
        fn = fn.base_dist
    return type(fn).__name__
