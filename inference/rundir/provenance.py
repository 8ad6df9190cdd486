"""What a run is made with: versions, machine, commit."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch

from inference.backend import distributed


def provenance() -> dict[str, Any]:
    """The versions, the machine's kind and the commit that a run is made with."""
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
        "processes": distributed.world_size(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the code that runs, marked where files differ from it; None outside a checkout."""
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
