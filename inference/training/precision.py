"""Networks in bfloat16, densities and samples in float32."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def precision_context(
    precision: str, model: nn.Module, device_type: str
) -> Callable[[], AbstractContextManager]:
    """Returns what makes the context in which the loss of a model is computed.

    Args:
        precision: "float32" or "bfloat16". Densities are in float32 in both.
        model: the model.
        device_type: "cpu" or "cuda".
    """
    return partial(bfloat16_networks, model, device_type) if precision == "bfloat16" else nullcontext


@contextmanager
def bfloat16_networks(model: nn.Module, device_type: str) -> Iterator[None]:
    """Runs the networks of a model in bfloat16 autocast. Everything outside of them stays in float32.

    A network is a submodule that is called and not called by another one. Its outputs are cast to float32, so
    that densities, KL terms and samples are computed in float32.

    Args:
        model: the model whose submodules are meant.
        device_type: "cpu" or "cuda".
    """
    depth, held = 0, ExitStack()

    def enter(*_: Any) -> None:
        nonlocal depth
        if depth == 0:
            held.enter_context(torch.autocast(device_type, torch.bfloat16))
        depth += 1

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> Any:
        nonlocal depth
        depth -= 1
        if depth:
            return None
        held.close()
        return tree_map(_float32, outputs)

    with ExitStack() as hooks:
        hooks.callback(held.close)  # if a network raised
        for module in model.modules():
            if module is not model:
                hooks.callback(module.register_forward_pre_hook(enter).remove)
                hooks.callback(module.register_forward_hook(leave).remove)
        yield


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
