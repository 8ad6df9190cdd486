"""The commands of the how-to pages on trained models run as they are written."""

import json
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from inference import svi
from tests.support import shortened

HOWTO = Path(__file__).parent.parent / "docs" / "howto"
PAGES = {
    "sample": ["samples.png", "samples.npz", "digits.png"],
    "encode": ["latents.npz", "latents.csv"],
    "score": ["scores.csv"],
    "diagnose": ["runs/digits/figures/diagnostics_ranks.png"],
    "init-from": ["runs/fine-tuned/results.json"],
    "json": ["other.csv"],
}
SHORT = ["--steps", "20"]  # in place of the default number


def commands(page: Path) -> list[list[str]]:
    """Returns the commands in the page's blocks of code, as arguments after `python -m`."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    found = [shlex.split(line) for language, block in blocks if not language for line in block.splitlines()]
    assert all(line[:2] == ["python", "-m"] for line in found)
    return [line[2:] for line in found]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the first command of each page trains, with fewer steps."""
    folder = tmp_path_factory.mktemp("howto") / "digits"
    (first,) = {tuple(commands(HOWTO / f"{name}.md")[0]) for name in PAGES}
    assert first == ("inference.svi", *shlex.split("--model vae --data digits --run-dir runs/digits"))
    assert svi.main([*first[1:-1], str(folder), *SHORT]) == 0
    return folder


@pytest.mark.parametrize("name", shortened(PAGES, set(PAGES) - {"diagnose"}))
def test_the_commands_of_a_page_run(
    name: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("inference.metrics.local_guide.STEPS", 3)
    shutil.copytree(trained, tmp_path / "runs" / "digits")
    for module, *arguments in commands(HOWTO / f"{name}.md")[1:]:
        capsys.readouterr()
        more = SHORT if module == "inference.svi" else []
        assert import_module(module).main([*arguments, *more]) == 0
        if "--json" in arguments:
            assert json.loads(capsys.readouterr().out)
    for file in PAGES[name]:
        assert Path(file).exists(), file


def test_the_outlier_table_has_the_kinds_of_the_command() -> None:
    import torch

    from tools.outliers import auroc, outliers

    x = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8)
    page = (HOWTO / "score.md").read_text("utf-8")
    for name, images in outliers(x).items():
        assert images.shape == x.shape and images.dtype == torch.uint8
        assert all(
            word in page for word in name.replace(" levels", "").replace("constant", "one level").split()
        )
    assert auroc(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0])) == (1 + 0 + 1 + 0.5) / 4
