"""What depends on what in a Pyro program, read off a run of it: sites, inputs, parameters, networks, plates.

`pyro.infer.inspect` follows values through a program by their provenance and tells which sites a site
depends on. The same is done here with more to see: a value that goes through one of the model's networks
remembers its name, and the inputs of a guide and the parameters outside of networks are followed as well.
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
    masked: bool = False  # whether its density is left out
    plates: tuple[str, ...] = ()  # from the outermost to the innermost

    @property
    def is_deterministic(self) -> bool:
        """Whether it takes one value for sure."""
        return self.distribution == "Delta"


@dataclass(frozen=True)
class Edge:
    """That `child` depends on `parent`, directly or through networks, named in their order."""

    parent: str
    child: str
    networks: tuple[str, ...] = ()


@dataclass
class Relations:
    """The graph of one program."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    plates: dict[str, int] = field(default_factory=dict)  # name -> size

    def parents(self, name: str) -> list[str]:
        """What a node depends on, parameters left out, in the order of the nodes."""
        found = {edge.parent for edge in self.edges if edge.child == name}
        return [other for other, node in self.nodes.items() if other in found and node.kind != "parameter"]


def relations(
    program: Callable[..., Any], model: nn.Module, inputs: Mapping[str, Tensor], given: set[str]
) -> Relations:
    """The graph of a program, a method of `model`, on such inputs.

    Inputs named in `given` are followed, and become nodes if anything depends on them. A site that is
    observed with an input bears that input's name.
    """
    own = {name for name, _ in model.named_parameters(recurse=False)}
    sources = {name: _follow(value, name) if name in given else value for name, value in inputs.items()}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(_networks_and_parameters_followed(model))
        tracer = stack.enter_context(poutine.trace())
        stack.enter_context(_FollowSites())
        program(**sources)
        return _read(tracer.trace, own)


def _follow(value: Tensor, name: str, networks: tuple[str, ...] = ()) -> Tensor:
    return ProvenanceTensor(detach_provenance(value), frozenset({(name, networks)}))


class _FollowSites(poutine.messenger.Messenger):
    """Makes what comes after a site know of the site, and not of what came before it."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            msg["infer"]["seen_as"] = _seen_as(msg)
            msg["value"] = _follow(msg["value"], msg["infer"]["seen_as"])


def _seen_as(msg: Any) -> str:
    """A site's name, or the name of the input that it is observed with."""
    source = get_provenance(msg["value"]) if msg["is_observed"] else ()
    return next((name for name, networks in source if not networks), msg["name"])


@contextmanager
def _networks_and_parameters_followed(model: nn.Module) -> Iterator[None]:
    """Each child of the model writes its name on what goes through it; its own parameters are followed."""
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
        model.__dict__[name] = _follow(parameter.detach(), name)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in own.items():
            del model.__dict__[name]
            model.register_parameter(name, parameter)


def _read(trace: poutine.Trace, parameters: set[str]) -> Relations:
    """The graph of a followed run."""
    found = Relations()
    sites = [s for s in trace.nodes.values() if s["type"] == "sample" and not site_is_subsample(s)]
    sites = [s for s in sites if not s["infer"].get("is_auxiliary")]  # a penalty is no variable
    named = {site["infer"]["seen_as"] for site in sites}
    for site in sites:
        name = site["infer"]["seen_as"]
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
            if source != name and not longer:  # a way that lies within another is not shown
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
    """The name of a distribution's family, under whatever makes it an event or spreads it over a plate."""
    while isinstance(fn, Independent | ExpandedDistribution | MaskedDistribution):
        fn = fn.base_dist
    return type(fn).__name__
