"""The commands of the how-to pages about data sources run as they are printed, with fewer steps."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from inference import svi
from tests.data.test_image_folder import save
from tests.data.test_torchvision_others import write_usps

HOWTO = Path(__file__).parents[1] / "docs" / "howto"
COMMANDS = [
    (page.name, command)
    for page in (HOWTO / f"{name}.md" for name in ("image-folder", "arrays", "torchvision-sets"))
    for command in re.findall(r"^```\n(.*?)\n```$", page.read_text(), re.DOTALL | re.MULTILINE)
]


def prepare(folder: Path) -> None:
    """Makes the data that the pages name."""
    random = np.random.RandomState(0)
    for i in range(300):
        save(
            folder / "photos" / ("cat", "dog")[i % 2] / f"{i}.png",
            random.randint(256, size=(40, 50, 3), dtype=np.uint8),
        )
    x = random.randint(256, size=(220, 3, 32, 32), dtype=np.uint8)
    np.save(folder / "images.npy", x[:, 0] / 255)
    y = np.array(["b", "a"] * 110)
    np.savez(folder / "own.npz", x_train=x[:200], x_test=x[200:], y_train=y[:200], y_test=y[200:])
    (folder / "data").mkdir()
    write_usps(folder / "data", "usps.bz2", list(range(10)) * 12)
    write_usps(folder / "data", "usps.t.bz2", list(range(10)))


def test_every_page_has_a_command() -> None:
    assert [page for page, _ in COMMANDS] == [
        "image-folder.md",
        "arrays.md",
        "arrays.md",
        "torchvision-sets.md",
    ]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_the_command_of_a_page_runs(
    page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    python, option, module, *arguments = shlex.split(command)
    assert (python, option, module) == ("python", "-m", "inference.svi") and arguments[-2:] == [
        "--steps",
        "300",
    ]
    assert svi.main([*arguments[:-1], "2", "--run-dir=run", "--device=cpu", "--compile=eager"]) == 0
    config = json.loads(Path("run/config.json").read_text())
    names = {"image-folder.md": ["cat", "dog"], "own.npz": ["a", "b"]}
    assert config.get("class_names") == names.get(page, names.get(Path(config["data"]).name))
    assert config["shape"] == (
        [1, 16, 16] if "USPS" in command else [1, 32, 32] if "npy" in command else [3, 32, 32]
    )
