"""The package as others get it: its version, commands, public names, and files for a code host."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import inference
from tools.public_api import FILE, public_api

ROOT = Path(__file__).parents[1]
needs_build = pytest.mark.skipif(find_spec("build") is None, reason="python -m build is not installed")
needs_schema = pytest.mark.skipif(
    find_spec("check_jsonschema") is None, reason="check-jsonschema is not installed"
)


def settings() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg")
    return found


def scripts() -> dict[str, str]:
    lines = settings()["options.entry_points"]["console_scripts"].split("\n")
    return dict(line.split(" = ") for line in lines if line)


def test_the_public_api_is_the_listed_one() -> None:
    """After a deliberate change: python -m tools.public_api --write, and a line in CHANGELOG.md."""
    import_module("inference.evaluate")  # a module that hides the function
    assert FILE.read_text(encoding="utf-8").splitlines() == public_api()


def test_each_command_has_a_script() -> None:
    commands = {
        path.stem for path in (ROOT / "inference").glob("*.py") if "run_command(main)" in path.read_text()
    }
    assert {f"ppl-{'train' if name == 'svi' else name}" for name in commands} == set(scripts())
    for script, place in scripts().items():
        module, _, function = place.partition(":")
        assert script == f"ppl-{function}" and callable(getattr(import_module(module), function))


def test_the_version_is_the_same_everywhere() -> None:
    version = settings()["metadata"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert citation["version"] == version and citation["license"] == settings()["metadata"]["license"]
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == version  # type: ignore[index]


def test_a_distribution_of_the_same_name_is_reported(tmp_path: Path) -> None:
    inference._warn_of_namesakes(tmp_path)
    for name, file in (
        ("inference_core", "inference/core.py"),
        ("inference_schema", "inference_schema/a.py"),
    ):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.0.dist-info" / "RECORD").write_text(f"LICENSE,,\n{file},,\n")
    with pytest.warns(RuntimeWarning, match="^the distribution inference_core has a package `inference` too"):
        inference._warn_of_namesakes(tmp_path)
    (tmp_path / "inference_core-1.0.dist-info" / "RECORD").write_text("core/a.py,,\n")
    inference._warn_of_namesakes(tmp_path)  # neither has the package


def test_the_workflows_call_the_scripts_and_the_docker_file_the_readme_s_commands() -> None:
    jobs = {}
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs |= yaml.safe_load(path.read_text())["jobs"]
    runs = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    assert ".ci/run" in runs and ".ci/full" in runs
    matrix = jobs["tests"]["strategy"]["matrix"]
    assert {f"constraints/{entry['versions']}.txt" for entry in matrix["include"]} <= {
        f"constraints/{path.name}" for path in (ROOT / "constraints").iterdir()
    }
    low, high = re.findall(r"3\.(\d+)", settings()["options"]["python_requires"])
    assert matrix["python"] == [f"3.{minor}" for minor in range(int(low), int(high))]
    docker = (ROOT / "Dockerfile").read_text().replace("--no-cache-dir ", "")
    command = "python3 -m venv .venv && .venv/bin/pip install -e ."
    assert f"RUN {command}\n" in docker and command in (ROOT / "README.md").read_text()
    assert 'CMD ["-m", "inference.svi", "--model", "ssvae"]' in docker


@needs_schema
@pytest.mark.full
@pytest.mark.parametrize(
    ("schema", "files"),
    [("vendor.github-workflows", ".github/workflows/*.yml"), ("vendor.citation-file-format", "CITATION.cff")],
)
def test_the_files_have_their_schema(schema: str, files: str) -> None:
    found = [str(path) for path in ROOT.glob(files)]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *found]
    done = subprocess.run(command, capture_output=True, text=True)
    assert found and done.returncode == 0, done.stdout + done.stderr


def left_out(folder: str, names: list[str]) -> set[str]:
    """What the source of a package does not need. `inference/data` is a package."""
    top = {".git", ".venv", ".peers", "build", "data"} if Path(folder) == ROOT else set()
    return {name for name in names if name in top or name.endswith(".egg-info")}


@needs_build
@pytest.mark.full
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_an_installed_package_works_outside_of_the_repository(kind: str, tmp_path: Path) -> None:
    """Built, installed into a folder, and run from an empty one: commands, templates, digits."""
    source, site, empty = tmp_path / "source", tmp_path / "site", tmp_path / "empty"
    shutil.copytree(ROOT, source, ignore=left_out)
    empty.mkdir()

    def run(*command: str, **keywords: object) -> str:
        done = subprocess.run(command, capture_output=True, text=True, **keywords)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    run(sys.executable, "-m", "build", f"--{kind}", "--no-isolation", str(source))
    (made,) = (source / "dist").iterdir()
    if kind == "wheel":
        names = zipfile.ZipFile(made).namelist()
    else:
        with tarfile.open(made) as archive:
            names = [name.partition("/")[2] for name in archive.getnames()]
    for name in ("inference/py.typed", "ppl_models/py.typed", "inference/html/references.json"):
        assert name in names
    assert not any(name.startswith(("tests/", "runs/", "docs/")) for name in names if kind == "wheel")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    run(*pip, "--target", str(site), str(made))
    environment = {**os.environ, "PYTHONPATH": str(site), "MPLBACKEND": "agg"}
    script = str(site / "bin" / "ppl-train")
    where = {"cwd": empty, "env": environment}
    place = run(sys.executable, "-c", "import inference; print(inference.__file__)", **where)
    assert Path(place.strip()).is_relative_to(site)
    run(script, "--model", "vae", "--steps", "30", "--run-dir", "run", **where)
    assert "digits" in (empty / "run" / "report.html").read_text()
    help_of = [
        run(*command, "--help", **where) for command in ([script], [sys.executable, "-m", "inference.svi"])
    ]
    assert help_of[0] == help_of[1] and "--model NAME" in help_of[0]
