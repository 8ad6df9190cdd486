"""The code excerpts of the derivations equal the source, and a wrong mark is refused."""

from pathlib import Path

import pytest

from inference.errors import UserError
from tools import excerpts

DERIVATIONS = Path(__file__).parent.parent / "docs" / "derivations"
PAGES = sorted(DERIVATIONS.glob("[0-9]*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem[:2])
def test_excerpts_equal_the_source(page: Path) -> None:
    text = page.read_text("utf-8")
    found = list(excerpts.MARK.finditer(text))
    assert found, f"{page.name} shows no code"
    assert excerpts.filled(text) == text, "run python -m tools.excerpts --write"
    assert 10 <= sum(mark["code"].count("\n") - 2 for mark in found) <= 15  # lines, without the fences


def test_an_excerpt_is_a_definition_or_a_part_of_it() -> None:
    whole = excerpts.excerpt("ppl_models/vae.py", "VAE.bound")
    assert whole.startswith("def bound(") and whole.endswith("\n    )")
    part = excerpts.excerpt("ppl_models/vae.py", "VAE.bound", "return ELBOTerms", "kl_z=")
    assert part.splitlines()[0] == "return ELBOTerms(" and part.splitlines()[-1].startswith("    kl_z=")
    assert part in excerpts.textwrap.dedent(whole.partition("\n")[2])
    code = excerpts.excerpt("ppl_models/densities.py", "kl_normal_standard")
    assert code.count("\n") == 1 and '"""' not in code
    assert (
        excerpts.excerpt("ppl_models/fsvae.py", "SCALE")
        == "SCALE = math.sqrt(0.1)  # of x: the variance is 0.1"
    )


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("ppl_models/gone.py VAE", "cannot read ppl_models/gone.py"),
        ("ppl_models/vae.py VAE.gone", "VAE.gone is not defined"),
        ("ppl_models/vae.py VAE.bound | nowhere", "begins with 'nowhere'"),
    ],
)
def test_a_wrong_mark_is_refused(mark: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        excerpts.filled(f"<!-- code: {mark} -->\n{excerpts.END}\n")
    with pytest.raises(UserError, match="no end"):
        excerpts.filled(f"<!-- code: {mark} -->\n")


def test_the_command_names_pages_that_differ_and_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "docs" / "derivations" / "01-page.md"
    page.parent.mkdir(parents=True)
    (tmp_path / "one.py").write_text('def one():\n    """One."""\n    return 1\n')
    page.write_text(f"a\n<!-- code: one.py one -->\n{excerpts.END}\nb\n")
    monkeypatch.setattr(excerpts, "ROOT", tmp_path)
    assert excerpts.main([]) == 1 and "01-page.md: an excerpt differs" in capsys.readouterr().out
    assert excerpts.main(["--write"]) == 0 and "01-page.md: written" in capsys.readouterr().out
    assert page.read_text().splitlines()[1:6] == [
        "<!-- code: one.py one -->",
        *("```python", "def one():", "    return 1", "```"),
    ]
    assert excerpts.main([]) == 0 and capsys.readouterr().out == ""
