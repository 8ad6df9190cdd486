"""The README: its code is the program's, and its example of a model is whole."""

import ast
import doctest
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference import svi
from ppl_models import MODELS, vae

README = Path(__file__).parent.parent / "README.md"
EXAMPLE = doctest.DocTestParser().get_doctest(README.read_text(), {}, "README.md", str(README), 0)


def as_a_file(folder: Path) -> Path:
    """The example as `factor_analysis.py` in the folder."""
    source = "".join(example.source for example in EXAMPLE.examples)
    (folder / "factor_analysis.py").write_text(f'"""Factor analysis of binary images."""\n\n{source}')
    return folder


def test_the_code_beside_the_picture_is_that_of_the_file() -> None:
    """But for where its lines break."""
    shown = README.read_text().partition("```python\n")[2].partition("```")[0]
    body = ast.parse(Path(vae.__file__).read_text()).body
    (cls,) = (part for part in body if isinstance(part, ast.ClassDef))
    methods, found = (
        {part.name: ast.dump(part) for part in body if isinstance(part, ast.FunctionDef)}
        for body in (cls.body, ast.parse(shown).body)
    )
    assert list(found) == ["model", "guide", "bound"]
    assert found == {name: methods[name] for name in found}


def test_the_example_of_a_model_runs_and_prints_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "factor_analysis", vae.VAE)  # so that it is taken out again
    said: list[str] = []
    found = doctest.DocTestRunner().run(EXAMPLE, out=said.append)
    assert found.attempted > 10 and not found.failed, "".join(said)


def test_the_example_trains(tmp_path: Path, small_npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "factor_analysis", vae.VAE)  # so that it is taken out again
    monkeypatch.syspath_prepend(as_a_file(tmp_path))
    importlib.import_module("factor_analysis")
    run = tmp_path / "run"
    arguments = [
        "--model",
        "factor_analysis",
        "--steps",
        "300",
        "--batch-size",
        "30",
        "--data",
        str(small_npz),
    ]
    assert svi.main([*arguments, "--run-dir", str(run)]) == 0
    measured = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bounds = [line["negative_elbo"] for line in measured if line["split"] == "test"]
    assert bounds[-1] < 0.9 * bounds[0]


def registered(folder: Path, *command: str) -> str:
    """What a Python command prints in a process of its own, where the example is in MODELS."""
    paths = os.pathsep.join([str(as_a_file(folder)), str(README.parent)])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=README.parent,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def passed(folder: Path, *arguments: str) -> int:
    """How many tests pass, and none fails, where the example is in MODELS."""
    said = registered(folder, "-m", "pytest", "-p", "factor_analysis", "-p", "no:cacheprovider", *arguments)
    return int(said.split(" passed")[0].split()[-1])


def test_the_example_keeps_the_contract_with_nothing_else_said_of_it(tmp_path: Path) -> None:
    assert passed(tmp_path, "-k", "factor_analysis", "tests/ppl_models/test_contract.py") >= 15


def test_no_other_test_asks_anything_of_the_example(tmp_path: Path) -> None:
    """One file and one line: no test asks for its results, its diagram in docs/ or its step by hand."""
    own = "factor_analysis or documented or every_system or made_from_its_json or help_lists or in_step"
    names = [
        "table",
        "plots/graph",
        "benchmarks",
        "html/walk",
        "rundir/disk",
        "training/svi",
        "commands/compare",
    ]
    files = [str(Path("tests", name).with_name(f"test_{Path(name).name}.py")) for name in names]
    assert passed(tmp_path, "-k", own, *files) >= 6


def test_help_lists_the_example(tmp_path: Path) -> None:
    program = "import factor_analysis; from inference import errors, svi; errors.run_command(svi.main)"
    said = registered(tmp_path, "-c", program, "--help")
    assert "\n  factor_analysis Factor analysis of binary images.\n" in said
    own = registered(tmp_path, "-c", program, "--model", "factor_analysis", "--help")
    assert "--z-dim N" in own and "dimensions of the latent z (default: 10)" in own


def test_help_lists_a_model_whose_file_has_no_docstring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that is defined in a notebook."""
    own = type("Own", (vae.VAE,), {"__module__": "not.imported", "__doc__": "p(x).\n\nMore."})
    monkeypatch.setitem(MODELS, "own", own)
    with pytest.raises(SystemExit):
        svi.main(["--help"])
    assert "\n  own        p(x).\n" in capsys.readouterr().out
