"""The pretrained models of the repository: files of `model.save` in half precision, each under a name."""

import hashlib
import json
from pathlib import Path

from inference.errors import UserError, unknown

WEIGHTS = Path(__file__).parents[2] / "runs" / "published" / "weights"
CHECKSUMS = "checksums.json"  # the SHA-256 of each file by the name of the model


def checksums() -> dict[str, str]:
    """Returns the SHA-256 of each pretrained model by name; nothing if the repository is not here."""
    path = WEIGHTS / CHECKSUMS
    return json.loads(path.read_bytes()) if path.is_file() else {}


def pretrained(name: str) -> Path:
    """Returns the file of a pretrained model.

    Args:
        name: of the model, such as "gmvae-mnist".

    Raises:
        UserError: there is no model of this name, its file is damaged, or the package is installed without
            the repository, which holds the files.
    """
    known = checksums()
    if not known:
        raise UserError(
            "the pretrained models are in the project's repository, and the package is installed without it. "
            "Clone the repository and install it by `pip install -e .`."
        )
    if name not in known:
        raise unknown("pretrained model", name, sorted(known))
    path = WEIGHTS / f"{name}.pt"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != known[name]:
        raise UserError(f"{path.name} is missing or damaged. Restore it by `git checkout -- {path}`.")
    return path
