"""The device of a run and its float32 settings."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from inference.errors import UserError, unknown

TOLERANCE = 1e-5  # error of a float32 product relative to its largest element; float32's own is below 1e-6
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS is deterministic with a workspace of one of two sizes


@contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """Use a device's fastest arithmetic of float32 precision; restore torch's settings on exit.

    On the CPU denormal numbers count as zero: where a guide rules a label out, q(y | x) of 1e-40 multiplies
    that label's whole branch, and a step of a trained SSVAE takes four times as long with them. Precision
    "medium" sends matrix products to oneDNN, which is much faster on many machines with the same error, and
    rounds to bfloat16 on others. The error is measured, and "medium" is used only if it is float32's own.

    On CUDA matrix products and convolutions do not use TF32, and torch uses deterministic algorithms, so
    that a resumed run is bit for bit the uninterrupted one. Torch warns of an operation that has none.
    cuBLAS reads CUBLAS_WORKSPACE_CONFIG when it starts: enter the context before the first matrix product.

    The flush-denormal setting belongs to a thread. A worker thread of torch's pool that starts inside the
    context keeps it; torch cannot reset it there.
    """
    cudnn = torch.backends.cudnn
    with ExitStack() as on_exit:
        on_exit.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        if device.type == "cuda":
            torch.set_float32_matmul_precision("highest")
            for owner, name, value in (
                (cudnn, "allow_tf32", False),
                (cudnn, "deterministic", True),
                (cudnn, "benchmark", False),
                (torch.utils.deterministic, "fill_uninitialized_memory", False),  # which takes time
            ):
                on_exit.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
            on_exit.callback(
                torch.use_deterministic_algorithms,
                torch.are_deterministic_algorithms_enabled(),
                warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
            )
            torch.use_deterministic_algorithms(True, warn_only=True)
            if WORKSPACE not in os.environ:
                on_exit.callback(os.environ.pop, WORKSPACE, None)
                os.environ[WORKSPACE] = ":4096:8"
        else:
            # NumPy before 2.4 warns of flushed denormals when it first looks up a type: it does so here.
            np.finfo(np.float32), np.finfo(np.float64)
            on_exit.callback(torch.set_flush_denormal, _flushes_denormal())
            torch.set_flush_denormal(True)
            torch.set_float32_matmul_precision("medium" if _medium_is_exact() else "highest")
        yield


def _flushes_denormal() -> bool:
    """Whether denormal numbers count as zero in this thread. torch has no getter for it."""
    return (torch.tensor(1e-38, dtype=torch.float32) * 0.1).item() == 0


def _medium_is_exact() -> bool:
    """Whether a matrix product at precision "medium", which it leaves set, has float32's own error here."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator, dtype=torch.float64).float() for _ in range(2))
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision("medium")
    return bool((a @ b - exact).abs().max() <= TOLERANCE * exact.abs().max())


@contextmanager
def double_precision() -> Iterator[None]:
    """Tensors are float64 unless they say otherwise, for as long as it lasts."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def choose_device(name: str) -> torch.device:
    """The device of that name: auto, cpu or cuda. Raises UserError if it is unknown or not available.

    It does not create a CUDA context.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ["auto", "cpu", "cuda"])
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available. Leave --device out, or give cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
