"""Versions, machine and commit of a run."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch


def provenance(processes: int = 1) -> dict[str, Any]:
    """Returns the versions, the machine and the commit of a run, as fields of `RunConfig`.

    Args:
        processes: that train together.
    """
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "numpy": np.__version__,
        },
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Returns the commit of this code, with a mark if files differ from it; None outside a checkout."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None  # installed inside somebody else's checkout
        changed = git("status", "--porcelain", "--", "ppl_models", "inference")
        return git("rev-parse", "HEAD") + ("-modified" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
