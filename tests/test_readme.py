"""The README shows the code of `ppl_models/vae.py`, and its example of a model runs and is complete."""

import ast
import doctest
import importlib
import os
import re
import sys
from pathlib import Path

import pytest

import inference.compare as compare_command
from inference import svi
from ppl_models import MODELS, vae
from tests import forks
from tests.support import lines

README = Path(__file__).parent.parent / "README.md"
(MODEL,) = re.findall(r'^```python\n(""".*?)^```$', README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
EXAMPLE = doctest.DocTestParser().get_doctest(README.read_text("utf-8"), {}, "README.md", str(README), 0)


@pytest.fixture
def unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the example from MODELS after the test."""
    monkeypatch.setitem(MODELS, "factor_analysis", vae.VAE)  # so that monkeypatch restores what was there
    monkeypatch.delitem(MODELS, "factor_analysis")


def write_example(folder: Path) -> Path:
    """Writes the example to `factor_analysis.py` in a folder and returns the folder."""
    (folder / "factor_analysis.py").write_text(MODEL, "utf-8")
    return folder


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unregistered: None) -> None:
    """Imports the example, which registers itself."""
    monkeypatch.syspath_prepend(write_example(tmp_path))
    monkeypatch.delitem(sys.modules, "factor_analysis", raising=False)
    importlib.import_module("factor_analysis")


def test_the_code_next_to_the_picture_equals_the_file() -> None:
    """The syntax trees are equal; line breaks may differ."""
    shown = README.read_text().partition("```python\n")[2].partition("```")[0]
    body = ast.parse(Path(vae.__file__).read_text()).body
    (cls,) = (part for part in body if isinstance(part, ast.ClassDef))
    methods, found = (
        {part.name: ast.dump(part) for part in body if isinstance(part, ast.FunctionDef)}
        for body in (cls.body, ast.parse(shown).body)
    )
    assert list(found) == ["model", "guide", "bound"]
    assert found == {name: methods[name] for name in found}


@pytest.mark.full
def test_the_comparison_shown_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Up to rounding."""
    assert compare_command.main(["--model", "ssvae"]) == 0
    printed, text = capsys.readouterr().out.split(), README.read_text("utf-8")
    shown = text[
        text.index("    ssvae, TraceEnum_ELBO") : text.index("Without `--model` it compares")
    ].split()
    assert len(shown) == len(printed) > 60
    for ours, theirs in zip(shown, printed, strict=True):
        try:
            assert float(ours) == pytest.approx(float(theirs), rel=1e-6, abs=1e-9)
        except ValueError:
            assert ours == theirs


@pytest.mark.usefixtures("imported")
def test_the_example_of_a_model_runs_and_prints_the_output_shown() -> None:
    output: list[str] = []
    found = doctest.DocTestRunner().run(EXAMPLE, out=output.append)
    assert found.attempted == 10 and not found.failed, "".join(output)


@pytest.mark.usefixtures("imported")
def test_the_example_trains(tmp_path: Path, small_npz: Path) -> None:
    run = tmp_path / "run"
    options = ["--steps", "100", "--lr", "0.003", "--batch-size", "30", "--data", str(small_npz)]
    assert svi.main(["--model", "factor_analysis", *options, "--run-dir", str(run)]) == 0
    bounds = [line["negative_elbo"] for line in lines(run) if line["split"] == "test"]
    assert bounds[-1] < 0.9 * bounds[0]


def run_registered(folder: Path, *command: str) -> str:
    """Runs Python in a process that can import the example, and returns its output."""
    paths = os.pathsep.join([str(write_example(folder)), str(README.parent)])
    done = forks.run(*command, env=forks.ENVIRONMENT | {"PYTHONPATH": paths})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def passed(folder: Path, *arguments: str) -> int:
    """Returns the number of tests that pass with the example registered, and asserts that none fails."""
    output = run_registered(
        folder, "-m", "pytest", "-p", "factor_analysis", "-p", "no:cacheprovider", *arguments
    )
    return int(output.split(" passed")[0].split()[-1])


def test_the_example_passes_the_contract_tests(tmp_path: Path) -> None:
    selected = ["-m", "", "-k", "factor_analysis"]  # those of .ci/full too
    assert passed(tmp_path, *selected, "tests/ppl_models/test_contract.py") >= 15


@pytest.mark.full
def test_no_other_test_requires_anything_of_the_example(tmp_path: Path) -> None:
    """No test requires its results, a diagram in docs/ or an implementation in plain PyTorch."""
    selected = "factor_analysis or documented or every_system or made_from_step_json or help_lists or in_step"
    names = [
        "table",
        "plots/graph",
        "benchmarks",
        "html/explorer",
        "rundir/disk",
        "training/svi",
        "commands/compare",
    ]
    files = [str(Path("tests", name).with_name(f"test_{Path(name).name}.py")) for name in names]
    assert passed(tmp_path, "-k", selected, *files) >= 6


def test_help_lists_the_example(tmp_path: Path) -> None:
    program = "import factor_analysis; from inference import svi; svi.run_command(svi.main)"
    models = run_registered(tmp_path, "-c", program, "--help")
    assert "\n  factor_analysis Factor analysis of binary images.\n" in models
    own = run_registered(tmp_path, "-c", program, "--model", "factor_analysis", "--help")
    assert "--z-dim N" in own and "dimensions of the latent z (default: 10)" in own


def test_help_lists_a_model_whose_file_has_no_docstring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a model that is defined in a notebook."""
    own = type("Own", (vae.VAE,), {"__module__": "not.imported", "__doc__": "p(x).\n\nMore."})
    monkeypatch.setitem(MODELS, "own", own)
    with pytest.raises(SystemExit):
        svi.main(["--help"])
    assert "\n  own        p(x).\n" in capsys.readouterr().out
