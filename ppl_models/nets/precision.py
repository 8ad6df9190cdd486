"""Float32 for what is not a network, where autocast runs the networks in a half precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def at_least_float32(value: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; any other precision is unchanged."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


@contextmanager
def full_precision(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Turns autocast off on the device of the tensors, and gives these in at least float32.

    Autocast runs matrix products in bfloat16. Use this context around each product that belongs to a density,
    a KL divergence or a sample:

        with full_precision(z, w) as (z, w):
            product = z @ w

    Autocast also runs the products of a backward pass in bfloat16. Call `torch.autograd.grad` and `backward`
    outside of autocast, or in this context.
    """
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield tuple(map(at_least_float32, tensors))


def keep_precision(
    network: nn.Module, given: tuple[Tensor, ...], out: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """A forward hook for networks of other packages: the outputs get the precision of the first input."""
    return tuple(part.to(given[0].dtype) for part in out)
