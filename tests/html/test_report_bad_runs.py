"""Damaged run folders: an index names them with the reason, and lists the others."""

import json
import os
import re
import shutil
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from inference import report, svi
from inference.errors import UserError
from inference.html import report as html_report
from inference.rundir.restore import load_data
from inference.rundir.run import Run
from tests.support import LONGER, drawn

Edit = Callable[[Path], object]
SECONDS = 60  # after which the command has hung
AIS = {"images": 1, "temperatures": 1, "chains": 1, "test": {}}


@pytest.fixture(scope="module")
def trained(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which tests do not change."""
    run = tmp_path_factory.mktemp("bad") / "run"
    with drawn():
        assert svi.main(["--model", "vae", *LONGER, "--data", str(small_npz), "--run-dir", str(run)]) == 0
    (run / "report.html").write_text("an earlier report")
    return run


def put(name: str, *keys: Any, value: Any) -> Edit:
    """An edit that sets a value of a JSON file, or of the second line of metrics.jsonl."""

    def edit(run: Path) -> None:
        lines = (run / name).read_text().splitlines() if name.endswith("l") else [(run / name).read_text()]
        number = min(1, len(lines) - 1)
        whole = inside = json.loads(lines[number])
        for key in keys[:-1]:
            inside = inside[key]
        if value is KeyError:
            del inside[keys[-1]]
        else:
            inside[keys[-1]] = value
        lines[number] = json.dumps(whole)
        (run / name).write_text("\n".join(lines) + "\n")

    return edit


def text(name: str, content: str | bytes) -> Edit:
    content = content.encode() if isinstance(content, str) else content
    return lambda run: (run / name).write_bytes(content)


def instead(name: str, make: Callable[[Path], object]) -> Edit:
    def edit(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        make(run / name)

    return edit


def png(width: int, height: int) -> bytes:
    """A valid black PNG of this size, which is small even for many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    row = bytes(1 + width // 8)
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(row * 100) for _ in range(height // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


config, metrics, results = "config.json", "metrics.jsonl", "results.json"
DEEP = "[" * 100_000
LINE = '{"step": 40, "split": "test", "seconds": 1.0, '
# Edits, and the pattern that the reason must match.
EDITS: dict[str, tuple[Edit, str]] = {
    "no model": (put(config, "model", value=KeyError), config),
    "a model that is a list": (put(config, "model", value=["vae"]), "not the configuration"),
    "a model that is not known": (put(config, "model", value="vax"), "vax"),
    "no steps": (put(config, "steps", value=KeyError), "steps"),
    "steps as text": (put(config, "steps", value="40"), "steps"),
    "steps that are true": (put(config, "steps", value=True), "steps"),
    "no shape": (put(config, "shape", value=KeyError), "shape"),
    "a shape as text": (put(config, "shape", value="1x6x6"), "shape"),
    "a shape of texts": (put(config, "shape", value=["1", 6, 6]), "shape"),
    "an empty shape": (put(config, "shape", value=[]), "shape"),
    "classes as a list": (put(config, "classes", value=[]), "classes"),
    "data as a number": (put(config, "data", value=3), "data"),
    "options as a list": (put(config, "options", value=[]), "options"),
    "an option too many": (put(config, "options", "none", value=1), "options"),
    "an option as an object": (put(config, "options", "hidden", value={}), "hidden"),
    "versions as text": (put(config, "versions", value="2"), "versions"),
    "versions of numbers": (put(config, "versions", value={"torch": 2}), "versions"),
    "a commit that is a number": (put(config, "commit", value=7), "commit"),
    "a rate that is NaN": (put(config, "lr", value=float("nan")), "NaN"),
    "a rate below zero": (put(config, "lr", value=-1), "lr"),
    "an estimator that is not known": (put(config, "elbo", value="elbow"), "elbow"),
    "a format to come": (put(config, "format", value=99), "format 99"),
    "a format as text": (put(config, "format", value="2"), "format"),
    "a configuration that is cut": (text(config, '{"model": "vae"'), config),
    "a configuration that is a list": (text(config, "[]"), config),
    "a configuration that is nested deeply": (text(config, DEEP), config),
    "a configuration of other bytes": (text(config, b"\xff\xfe\x00"), config),
    "a configuration that is huge": (text(config, " " * 5_000_000 + "{}"), config),
    "a configuration that is a folder": (instead(config, Path.mkdir), config),
    "no split": (put(metrics, "split", value=KeyError), "split"),
    "a split that is a list": (put(metrics, "split", value=[]), "split"),
    "a split that is not known": (put(metrics, "split", value="trial"), "split"),
    "no step": (put(metrics, "step", value=KeyError), "step"),
    "a step below zero": (put(metrics, "step", value=-1), "step"),
    "a step that is huge": (put(metrics, "step", value=10**30), metrics),
    "no seconds": (put(metrics, "seconds", value=KeyError), "seconds"),
    "seconds as text": (put(metrics, "seconds", value="long"), "seconds"),
    "a term as text": (put(metrics, "kl", value="1"), "kl"),
    "a term that is null": (put(metrics, "kl", value=None), "kl"),
    "a term that is NaN": (put(metrics, "kl", value=float("nan")), "NaN"),
    "a term that is infinite": (put(metrics, "kl", value=float("-inf")), "Infinity"),
    "a term beyond all numbers": (text(metrics, LINE + '"kl": 1e999}\n'), metrics),
    "a term with a long name": (put(metrics, "x" * 5_000, value=1), "characters"),
    "a line that is a number": (text(metrics, "3\n"), metrics),
    "a line nested deeply": (text(metrics, DEEP + "\n"), metrics),
    "a line nested below that": (text(metrics, LINE + f'"kl": {"[" * 300}{"]" * 300}}}\n'), "nested"),
    "metrics that are a folder": (instead(metrics, Path.mkdir), metrics),
    "metrics that are a link": (instead(metrics, lambda path: path.symlink_to("/etc/passwd")), metrics),
    "no test": (put(results, "test", value=KeyError), "test"),
    "a test that is a list": (put(results, "test", value=[]), "test"),
    "a metric that is a number": (put(results, "test", "kl", value=1.0), "kl"),
    "a metric without a value": (put(results, "test", "kl", value={"se": 1.0}), "kl"),
    "a metric with a value as text": (put(results, "test", "kl", "value", value="1"), "kl"),
    "an error below zero": (put(results, "test", "kl", "se", value=-1.0), "se"),
    "no seconds in the results": (put(results, "seconds", value=KeyError), "seconds"),
    "no skipped": (put(results, "skipped", value=KeyError), "skipped"),
    "skipped as text": (put(results, "skipped", value="<script>alert(1)</script>"), "skipped"),
    "skipped as an object": (put(results, "skipped", value={}), "skipped"),
    "results that are NaN": (put(results, "test", "kl", "value", value=float("nan")), "NaN"),
    "results nested deeply": (text(results, DEEP), results),
    "results of another model": (put(results, "model", value="ssvae"), "ssvae"),
    "exact as a number": (put(results, "exact", value=1), "exact"),
    "exact without how": (put(results, "exact", value={"images": 1, "test": {}}), "how"),
    "ais without chains": (put(results, "ais", value={"images": 1, "temperatures": 2}), "chains"),
    "a metric of ais as text": (
        put(results, "ais", value=AIS | {"simulated": {"ais": {"value": "1"}}}),
        "ais.simulated",
    ),
    "a validation part as text": (put(results, "validation", value="x"), "validation"),
    "a large figure": (
        text("figures/sample_means.png", png(20_000, 20_000)),
        "20000 x 20000|exceeds",
    ),
    "a figure that is not a PNG": (text("figures/sample_means.png", "not a PNG"), "sample_means.png"),
    "a figure that is a link": (
        instead("figures/sample_means.png", lambda path: path.symlink_to("/etc/passwd")),
        "sample_means.png",
    ),
    "figures that are a file": (
        lambda run: (shutil.rmtree(run / "figures"), text("figures", "")(run)),
        "figures",
    ),
}
if hasattr(os, "mkfifo"):
    for name in (config, metrics, results, "figures/sample_means.png"):
        EDITS[f"a FIFO as {name}"] = instead(name, os.mkfifo), name


def test_there_are_enough_edits() -> None:
    assert len(EDITS) >= 40


def refuse(constant: str) -> None:
    raise AssertionError(f"the page has a bare {constant}")


@contextmanager
def not_hanging() -> Iterator[None]:
    """Fails the test if a command waits for a FIFO."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError("the command hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def spoilt(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a good run and of one run for each edit, with their index."""
    folder = tmp_path_factory.mktemp("spoilt")
    shutil.copytree(trained, folder / "good")
    for number, (edit, _) in enumerate(EDITS.values()):
        edit(shutil.copytree(trained, folder / f"damaged-{number}"))
    with not_hanging():
        assert report.main([str(folder)]) == 0
    return folder


@pytest.mark.parametrize("name", EDITS)
def test_a_bad_run_is_left_out_by_name(name: str, spoilt: Path) -> None:
    page = (spoilt / "index.html").read_text("utf-8")
    number = list(EDITS).index(name)
    (left_out,) = re.findall(rf"<li>(damaged-{number}: .*?)</li>", page[page.index("Left out") :])
    assert re.search(EDITS[name][1], left_out) and "Traceback" not in left_out


def test_an_index_has_the_good_run_alone(spoilt: Path) -> None:
    page = (spoilt / "index.html").read_text("utf-8")
    assert re.findall(r'<tr data-run="([\w-]+)"', page) == ["good"]
    assert page.count("<li>damaged-") == len(EDITS)
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert data and json.loads(data[1], parse_constant=refuse).keys() == {"good"}


@pytest.mark.parametrize("name", EDITS)
def test_the_report_of_a_bad_run_is_refused_with_one_line(name: str, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    before = (run / "report.html").read_bytes()
    EDITS[name][0](run)
    if name == "a configuration that is a folder":
        shutil.rmtree(run / config)
    with pytest.raises(UserError) as caught:
        report.main([str(run)])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1_000
    assert (run / "report.html").read_bytes() == before


def test_a_model_too_large_for_the_memory_is_refused(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    put(config, "shape", value=[1, 50_000, 50_000])(run)
    with pytest.raises(UserError, match="GiB of memory"):
        report.main([str(run)])


def test_a_locked_run_is_not_written_to(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "runs" / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    with Run.open(run):
        with pytest.raises(UserError, match=r"^.* is in use"):
            report.main([str(run)])
        assert report.main([str(tmp_path / "runs")]) == 0  # the index lists it, and is written next to it
        assert '<tr data-run="run"' in (tmp_path / "runs" / "index.html").read_text("utf-8")
        after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before
    assert report.main([str(run)]) == 0


def test_the_report_of_a_locked_first_stage_is_left_unchanged(
    trained: Path, tmp_path: Path, with_report: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first = shutil.copytree(trained, tmp_path / "first")
    second = shutil.copytree(trained, first / "prior")
    (first / "report.html").write_text("unchanged")
    with Run.open(second) as run, Run.open(first):
        assert html_report.write_after_training(run, load_data(run)) == 0
    assert (first / "report.html").read_text() == "unchanged" and "is in use" in capsys.readouterr().err
    with Run.open(second) as run:
        assert html_report.write_after_training(run, load_data(run)) == 0
    assert "one of two stages" in (first / "report.html").read_text("utf-8")
