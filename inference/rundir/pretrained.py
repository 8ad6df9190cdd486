"""The pretrained models of the repository: files of `model.save` in half precision, each under a name."""

import hashlib
import json
from pathlib import Path

from inference.errors import UserError, unknown

WEIGHTS = Path(__file__).parents[2] / "runs" / "published" / "weights"
CHECKSUMS = "checksums.json"  # the SHA-256 of each file by the name of the model
CODE_PRIORS = {"vqvae-svhn_10k": "code_transformer-svhn_10k"}  # by first stage: the prior of its codes
ELSEWHERE = (
    "the pretrained models are in the project's repository, and the package is installed without it. "
    "Clone the repository and install it by `pip install -e .`."
)


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
        raise UserError(ELSEWHERE)
    if name not in known:
        raise unknown("pretrained model", name, sorted(known))
    path = WEIGHTS / f"{name}.pt"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != known[name]:
        raise UserError(f"{path.name} is missing or damaged. Restore it by `git checkout -- {path}`.")
    return path


def others() -> str:
    """Returns what else to name instead of a file that is not there: a sentence for an error message."""
    known = ", ".join(sorted(checksums()))
    return "Name a saved model or a run" + (
        f", or a pretrained model: {known}." if known else f"; {ELSEWHERE}"
    )


def code_stages(path: Path) -> tuple[Path, Path] | None:
    """Returns the files of a code prior and of its first stage, if a path or name is one of these two.

    Args:
        path: a file, or the name of a pretrained model.
    """
    inside = path.resolve().parent == WEIGHTS.resolve()
    if path.exists() and not inside:
        return None
    name = path.stem if inside else str(path)
    for first, prior in CODE_PRIORS.items():
        if name in (first, prior) and prior in checksums():
            return pretrained(prior), pretrained(first)
    return None
