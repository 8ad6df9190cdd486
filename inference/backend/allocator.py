"""How the C library hands out memory in a process that runs a command."""

import ctypes


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next tensor instead of returning it to the system.

    Without this, large tensors use new pages, which the system clears at the first touch: a captured step of
    `ssvae` or `conv_vae` takes about 15 % more processor time. The setting holds for the rest of the process,
    so only commands call it. With another C library nothing is done.
    """
    mmap_threshold, trim_threshold, gigabyte = -3, -1, 2**30
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(mmap_threshold, gigabyte)
    mallopt(trim_threshold, 2 * gigabyte - 1)
