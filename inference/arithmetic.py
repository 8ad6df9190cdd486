"""Where the sums are done, and how the processor is asked to do them."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from inference.errors import BadInput, unknown

TOLERANCE = 1e-5  # of a float32 product, relative to its largest element: float32 leaves less than 1e-6


def fast_float32() -> None:
    """Set torch to the fastest float32 arithmetic that keeps float32's precision on this machine.

    Denormal numbers count as zero: where a guide rules a label out, q(y | x) of 1e-40 multiplies that
    label's whole branch, and a trained SSVAE's step takes four times as long with them.

    Precision "medium" sends matrix products on a CPU to oneDNN, which may be much faster than the
    usual way, with the same error on many machines, and may round to bfloat16 on others. So the error is
    measured, and where it is not float32's own the usual way is kept.
    """
    torch.set_flush_denormal(True)
    _keep_memory()
    torch.set_float32_matmul_precision("highest")
    if torch.cuda.is_available():
        return  # there "medium" rounds by its nature
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator, dtype=torch.float64).float() for _ in range(2))
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision("medium")
    if (a @ b - exact).abs().max() > TOLERANCE * exact.abs().max():
        torch.set_float32_matmul_precision("highest")


def _keep_memory() -> None:
    """Have glibc keep what is freed for the next tensor, where it would give it back to the system.

    Each large tensor would otherwise come in pages that the system clears one by one at the first
    touch, which shows in every step. Where the C library is another one, nothing is done.
    """
    mmap_threshold, trim_threshold, gigabyte = -3, -1, 2**30
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(mmap_threshold, gigabyte)
    mallopt(trim_threshold, 2 * gigabyte - 1)


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
    """The device of that name: auto, cpu or cuda. Raises BadInput for another, and for one not to be had."""
    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ["auto", "cpu", "cuda"])
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: no CUDA device is to be had here; leave --device out, or give cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
