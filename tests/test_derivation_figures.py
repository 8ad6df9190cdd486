"""Every derivation page shows its own picture, and the pictures are what the tool draws."""

from pathlib import Path

import pytest
from PIL import Image

from inference.errors import UserError
from tools import derivation_figures
from tools.derivation_figures import __main__ as command

DERIVATIONS = Path(__file__).parent.parent / "docs" / "derivations"
PAGES = sorted(page.stem for page in DERIVATIONS.glob("[0-9]*.md"))


def test_every_page_has_a_picture_that_the_tool_draws() -> None:
    assert sorted(derivation_figures.FIGURES) == PAGES
    assert sorted(path.stem for path in derivation_figures.FOLDER.iterdir()) == PAGES
    for page in PAGES:
        opening = (DERIVATIONS / f"{page}.md").read_text("utf-8").partition("\n## ")[0]
        assert opening.count(f"](figures/{page}.png)") == 1, page
        assert "**What it shows.**" in opening and "**What it needs.**" in opening, page


@pytest.mark.parametrize("page", PAGES)
def test_a_picture_is_small_and_opaque(page: str) -> None:
    """A white background keeps it readable on a dark page."""
    path = derivation_figures.FOLDER / f"{page}.png"
    assert path.stat().st_size < 50_000
    with Image.open(path) as image:
        assert image.width == 760 and "transparency" not in image.info
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_the_command_draws_the_same_picture_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (derivation_figures.write("17-free-bits", tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as drawn, Image.open(derivation_figures.FOLDER / first.name) as kept:
        assert drawn.width == kept.width
        assert abs(drawn.height - kept.height) <= 2  # versions of matplotlib round differently
    with pytest.raises(UserError, match="page 99 has no picture"):
        command.main(["99"])
