"""Adds the model of a finished, evaluated run to the pretrained models in runs/published/weights.

python -m tools.pretrained RUN NAME     write NAME.pt, its card NAME.md, its checksum, and the lists

The file is in half precision if that changes no metric by more than a tenth of its standard error. The lists
are README.md next to the files, and the table of docs/howto/sample.md.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from inference.cli.entry import exit_on_interrupt

    exit_on_interrupt()

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

from inference import evaluate
from inference.backend.files import write_whole
from inference.cli.entry import run_command
from inference.cli.parser import Parser
from inference.data.observations import OBSERVATIONS
from inference.errors import UserError
from inference.rundir.pretrained import CHECKSUMS, WEIGHTS, checksums
from inference.rundir.restore import Restored, restore
from ppl_models import MODELS, from_saved
from ppl_models.base import LatentVariableModel
from tools.table import ROOT, write_between

PAGE = ROOT / "docs" / "howto" / "sample.md"
MARKS = (
    "<!-- pretrained: made by python -m tools.pretrained RUN NAME -->",
    "<!-- end of pretrained -->",
)

LICENCES = {
    "mnist": "MNIST, by Yann LeCun and Corinna Cortes: Creative Commons Attribution-ShareAlike 3.0",
    "digits": "Handwritten digits, by Alpaydin and Kaynak (UCI): Creative Commons Attribution 4.0",
    "svhn_10k.npz": "10,000 images of SVHN, by Netzer et al.: for non-commercial use only",
    "cifar10_20k.npz": "20,000 images of CIFAR-10, by Krizhevsky: no licence is stated",
    "smiley": "points drawn by this project's own program: no restriction",
}
PENALTIES = {"commitment", "codebook"}  # means over a batch, without a standard error over images
INTRODUCTION = """# Pretrained models

Each file is what `model.save` wrote. `load("gmvae-mnist")` loads one, and this draws samples from it:

    python -m inference.sample --pretrained gmvae-mnist

A card has the command that draws samples of its model. The data have licences of their own, which it states.

| name | description | trained on | size | card |
|---|---|---|---|---|
"""


def add(folder: Path, name: str) -> str:
    """Writes the files of a pretrained model. Returns a line about it.

    Args:
        folder: of a finished run.
        name: of the pretrained model.

    Raises:
        UserError: the name is malformed, or the run is not finished.
    """
    if not re.fullmatch(r"[a-z0-9_]+(-[a-z0-9_]+)+", name):
        raise UserError(f"{name!r} is not a name of the form MODEL-DATA, such as gmvae-mnist.")
    restored = restore(folder)
    results = restored.run.results()
    model, path = restored.model, WEIGHTS / f"{name}.pt"
    expected = evaluate(model, restored.data, particles=(), samples=1)
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    model.half().save(path)
    halved = from_saved(torch.load(path, weights_only=True)).float()
    found = evaluate(halved, restored.data, particles=(), samples=1)  # with the same noise
    names = expected.keys() - PENALTIES
    apart = max(abs(found[key].value - expected[key].value) / (expected[key].se or 1) for key in names)
    if apart > 0.1:
        restore(folder).model.save(path)
    content = path.read_bytes()
    sums = checksums() | {name: hashlib.sha256(content).hexdigest()}
    write_whole(WEIGHTS / CHECKSUMS, (json.dumps(dict(sorted(sums.items())), indent=1) + "\n").encode())
    precision = "float32" if apart > 0.1 else "half precision"
    write_whole(WEIGHTS / f"{name}.md", card(name, restored, results, content, precision).encode())
    write_lists(sorted(sums))
    return f"{path}: {len(content):,} bytes, {precision}; largest change {apart:.1e} standard errors"


def card(name: str, restored: Restored, results: dict[str, Any], content: bytes, precision: str) -> str:
    """Returns the card of a pretrained model, in Markdown."""
    config = restored.config
    doc = (MODELS[config.model].__doc__ or "").splitlines()[0]
    options = ", ".join(f"{key} {value}" for key, value in config.options.items())
    metrics = "\n".join(
        f"| {key} | {metric['value']:.4f} | {metric.get('se', 0):.4f} |"
        for key, metric in results["test"].items()
    )
    versions = ", ".join(f"{key} {value}" for key, value in (config.versions or {}).items())
    command = re.sub(r" --(run-dir|data-dir|device) \S+", "", config.command or "")
    samples = " ".join(["python -m inference.sample --pretrained", name, *samples_options(restored.model)])
    command = re.sub(r"(--stage1-run) \S+", r"\1 RUN_DIR", command)
    data = Path(config.data).name
    return f"""# {name}

`{doc}` {data}, seed {config.seed}.

* **Options**: {options}
* **Data**: {LICENCES.get(data.removeprefix("codes-of-"), data)}.
* **Observations**: {config.observation}.
* **Command**: `{command}`
* **Code**: commit {config.commit or "not recorded"}, {versions}.
* **File**: {len(content):,} bytes, {precision}, SHA-256 `{hashlib.sha256(content).hexdigest()}`.
* **Samples**: `{samples}`.

On the whole test set, in float32 and before the change to {precision}, with standard errors over the images:

| metric | value | standard error |
|---|---|---|
{metrics}
"""


def samples_options(model: LatentVariableModel) -> list[str]:
    """Returns the options of `inference.sample` that show a model: by class, and levels without noise."""
    grey = OBSERVATIONS[model.observation].data.drawn == "images" and model.observation != "binary"
    means = model.has_mean and not model.has_codebook and grey
    return ["--same-latents"] * model.has_label + ["--means"] * means


def write_lists(names: list[str]) -> None:
    """Writes README.md and the table of the how-to page, which list the pretrained models."""
    listed, page = [], ["| name | model | trained on | size | options |", "|---|---|---|---|---|"]
    for name in names:
        model = from_saved(torch.load(WEIGHTS / f"{name}.pt", weights_only=True))
        module = sys.modules[type(model).__module__]
        about, size = (module.__doc__ or "").splitlines()[0], (WEIGHTS / f"{name}.pt").stat().st_size
        start = f"| `{name}` | {about} | {name.partition('-')[2]} | {size / 1e6:.1f} MB | "
        listed.append(f"{start}[card]({name}.md) |")
        options = " ".join(samples_options(model))
        page.append(f"{start}{f'`{options}`' if options else ''} |")
    write_whole(WEIGHTS / "README.md", (INTRODUCTION + "\n".join(listed) + "\n").encode())
    write_between(PAGE, MARKS, "\n".join(page))


def main(arguments: list[str]) -> None:
    """Adds a model."""
    parser = Parser(prog="python -m tools.pretrained", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run")
    parser.add_argument("name", metavar="NAME", help="of the pretrained model, such as gmvae-mnist")
    given = parser.parse_args(arguments)
    print(add(given.run, given.name))


if __name__ == "__main__":
    run_command(main)
