"""Device, float32 and float64 settings."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from pyro.util import get_rng_state, set_rng_state

from inference.errors import UserError, unknown

TOLERANCE = 1e-5  # relative to the largest element of a matrix product; float32's own error is below 1e-6
SMALL_PRODUCT = 4 * 10**6  # multiplications, below which oneDNN's calls take longer than they save
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS is deterministic only with a workspace of a fixed size


@contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """Uses a device's fastest arithmetic of float32 precision inside the context.

    On exit torch's settings are restored.

    On the CPU denormal numbers are flushed to zero. If q(y | x) of a label is 1e-40, it multiplies all terms
    of that label, and with denormal numbers a step of a trained SSVAE takes four times as long. Precision
    "medium" sends matrix products to oneDNN, which on many machines is much faster with the same error, and
    on others rounds to bfloat16. The context measures the error, and uses "medium" only if it is float32's
    own.

    On CUDA matrix products and convolutions do not use TF32, and torch uses deterministic algorithms, so that
    a resumed run equals the uninterrupted one bit for bit. Torch warns about operations without such an
    algorithm. cuBLAS reads CUBLAS_WORKSPACE_CONFIG when it starts: enter the context before the first matrix
    product.

    The flush-denormal setting belongs to a thread. A worker thread of torch's pool that starts inside the
    context keeps it; torch cannot reset it there.

    Args:
        device: the device on which the block computes.
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
                (torch.utils.deterministic, "fill_uninitialized_memory", False),  # it takes time
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
            # NumPy before 2.4 warns about flushed denormals when it first looks up a type: do that here.
            np.finfo(np.float32), np.finfo(np.float64)
            on_exit.callback(torch.set_flush_denormal, _flushes_denormal())
            torch.set_flush_denormal(True)
            torch.set_float32_matmul_precision("medium" if _medium_is_exact() else "highest")
        yield


@contextmanager
def product_library(largest: int) -> Iterator[None]:
    """Uses the library with the fastest matrix products of a size, of those that `fast_float32` allows.

    oneDNN is faster at large products. But each call takes about ten microseconds more.

    Args:
        largest: multiplications in the largest product.
    """
    before = torch.get_float32_matmul_precision()
    if largest < SMALL_PRODUCT:
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _flushes_denormal() -> bool:
    """Returns whether this thread flushes denormal numbers to zero. torch has no getter for it."""
    return (torch.tensor(1e-38, dtype=torch.float32) * 0.1).item() == 0


def _medium_is_exact() -> bool:
    """Sets precision "medium". Returns whether a matrix product then has float32's own error."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator, dtype=torch.float64).float() for _ in range(2))
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision("medium")
    return bool((a @ b - exact).abs().max() <= TOLERANCE * exact.abs().max())


@contextmanager
def double_precision() -> Iterator[None]:
    """Sets the default dtype to float64 inside the context."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def choose_device(name: str) -> torch.device:
    """Returns a device by name. It does not create a CUDA context.

    Args:
        name: auto, cpu or cuda; auto means cuda if it is available, or else cpu.

    Raises:
        UserError: the name is unknown, or the device is not available.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ["auto", "cpu", "cuda"])
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available. Leave out --device, or give cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def rng_state_preserved() -> Iterator[None]:
    """Restores the state of all random number generators after the block."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
