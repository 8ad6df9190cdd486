"""Command lines that make no sense, written by chance and by hand."""

import contextlib
import io
import os
import random
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import bound, sampling, step, training
from inference import compare, evaluate, exact, graph, interpolate, masks, svi, sweep
from inference.cli import options
from inference.cli.options import PRIORS, flag
from inference.data import datasets
from inference.errors import UserError
from ppl_models import MODELS
from tools import table

from .sandbox import VAE, Found, run

NUMBERS = [
    "0",
    "-1",
    "1",
    "2",
    "3",
    "1.5",
    "-0.0",
    "1e400",
    "nan",
    "-inf",
    "9" * 30,
    "9" * 5000,
    "0x10",
    "1_0",
    "٣",
]
NUMBERS += ["1000000000000", "4294967296", "1e-400", " 2", "2 ", "", "two", "1,2", "True", "None"]
TEXTS = [
    "",
    " ",
    "-",
    "--",
    "=",
    "\n",
    "\x1b[31m",
    "☃",
    "\udcff",
    "a" * 300,
    "../..",
    "/",
    "/dev/null",
    "/proc/self/mem",
]
TEXTS += ["{}", "%s%n", "$HOME", "*", "a\nb", "con", "nul.npz", "~", "vae", "cuda", "auto"]
FLAGS = [
    *(
        "--model",
        "--data",
        "--data-dir",
        "--steps",
        "--batch-size",
        "--lr",
        "--schedule",
        "--lr-warmup",
        "--clip",
    ),
    *(
        "--ema",
        "--precision",
        "--warmup",
        "--elbo",
        "--particles",
        "--prior",
        "--from",
        "--validation",
        "--seed",
    ),
    *(
        "--device",
        "--run-dir",
        "--resume",
        "--over",
        "--seeds",
        "--jobs",
        "--out",
        "--run",
        "--images",
        "--json",
    ),
    *("--memory", "--labels", "--rounds", "--pixels"),
]
FLAGS += sorted({flag(key) for cls in MODELS.values() for key in cls.options()})
COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "inference.svi": svi.main,
    "inference.sweep": sweep.main,
    "inference.compare": compare.main,
    "inference.graph": graph.main,
    "inference.evaluate": evaluate.main,
    "inference.exact": exact.main,
    "inference.interpolate": interpolate.main,
    "inference.masks": masks.main,
    "tools.table": table.main,
    "benchmarks.step": step.main,
    "benchmarks.bound": bound.main,
    "benchmarks.training": training.main,
    "benchmarks.sampling": sampling.main,
}
WEIGHTS = [12, 4, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]  # how often each is tried


def value(draw: random.Random, name: str, places: list[str]) -> str:
    """What one might give to an option: mostly what has nothing to do with it."""
    sensible = {
        "--model": list(MODELS),
        "--data": ["digits", "gauss-full-1", *places],
        "--elbo": ["trace", "mean_field", "enum", "iwae", "iwae_dreg"],
        "--prior": list(PRIORS),
        "--over": ["lr=1e-3", "beta=0,1", "=", "lr=", "lr=0,x", "seed=1"],
        "--labels": ["1-7", "10", "1-", "-"],
    }
    of_name = sensible.get(name, NUMBERS[:6])
    chosen = draw.choice([of_name, of_name, NUMBERS, TEXTS, places])
    return draw.choice(chosen)


def typo(draw: random.Random, word: str) -> str:
    """A word with a letter lost, doubled or changed for another."""
    at = draw.randrange(len(word))
    return word[:at] + draw.choice(["", 2 * word[at], draw.choice("abz-_9")]) + word[at + 1 :]


def line(draw: random.Random, command: str, places: list[str]) -> list[str]:
    """A command line, by chance: options that may be of another command, with values that may fit or not."""
    words = []
    if command in ("inference.svi", "inference.sweep") and draw.random() < 0.8:
        words += ["--model", draw.choice(list(MODELS))]
    if command in ("inference.svi", "inference.sweep") and draw.random() < 0.8:
        words += ["--data", draw.choice(["digits", *places])]
    if command == "inference.sweep" and draw.random() < 0.8:
        words += ["--over", value(draw, "--over", places)]
    if command not in ("inference.svi", "inference.sweep", "inference.compare") and draw.random() < 0.8:
        words += [draw.choice(places)]
    given = words[1] if words[:1] == ["--model"] else None
    own_flags = (
        sorted(options._parser(given).flags() - {"--help", "-h"}) if command == "inference.svi" else FLAGS
    )
    for _ in range(draw.randint(0, 4)):
        name = draw.choice(own_flags if draw.random() < 0.9 else FLAGS)
        own = value(draw, name, places)
        usual = [name, own]
        odd = [[f"{name}={own}"], [typo(draw, name), own], [name], [own]]
        words += usual if draw.random() < 0.6 else draw.choice(odd)
    return words


def by_hand(places: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """What people do give, and what a reader of the options would try."""
    run_dir, data = str(places["run"]), str(places["data.npz"])
    vae = ["--model", "vae", "--data", "digits"]
    for words in (
        [],
        ["--model"],
        ["vae"],
        ["--model", "VAE"],
        ["--model=vae", "--model=nope"],
        [*vae, "--lables", "10"],
        [*vae, "--labels", "10"],
        [*vae, "--steps", "1e3"],
        [*vae, "--z-dim", "1000000000000"],
        [*vae, "--hidden", "9" * 30],
        [*vae, "--batch-size", "1298"],
        [*vae, "--elbo", "enum"],
        [*vae, "--particles", "1000000000000", "--elbo", "iwae"],
        [*vae, "--run-dir", data],
        [*vae, "--run-dir", f"{data}/run"],
        [*vae, "--run-dir", run_dir],
        [*vae, "--run-dir", "a" * 300],
        [*vae, "--device", "cuda:7"],
        [*vae, "--prior", "pixelcnn"],
        ["--model", "ae", "--data", "digits", "--elbo", "iwae"],
        ["--model", "vqvae", "--data", "digits", "--elbo", "iwae"],
        ["--model", "ppca", "--data", "digits", "--z-dim", "65"],
        ["--model", "vae2d", "--data", "digits"],
        ["--model", "vae", "--data", "smiley"],
        ["--model", "flow", "--hidden", "1000000000"],
        ["--model", "made", "--data", "digits", "--layers", "1000000000"],
        ["--model", "code_pixelcnn", "--data", "digits", "--codes", "3"],
        ["--model", "code_transformer", "--data", "digits", "--width", "9", "--heads", "2"],
        ["--model", "ssvae", "--data", "digits", "--labels", "1000000"],
        ["--model", "ssvae", "--data", str(places["unlabelled.npz"])],
        ["--model", "fsvae", "--data", str(places["unlabelled.npz"])],
        ["--model", "conv_vae", "--data", str(places["large.npz"])],
        ["--model", "gated_vae", "--data", str(places["odd.npz"])],
        *(["--model", "fsvae", "--data", str(places[name])] for name in places if name.startswith("bad")),
        ["--from", run_dir, "--prior", "pixelcnn"],
        ["--from", run_dir],
        ["--resume", run_dir, "--steps", "1"],
        ["--resume", run_dir, "--lr", "1"],
        ["--resume", data],
        ["--resume", ""],
        ["--resume", run_dir, "--model", "ae"],
        ["--resume", run_dir, "--data-dir", data, "--device", "tpu"],
    ):
        yield "inference.svi", words
    for command in COMMANDS:
        yield command, ["--nope"]
        yield command, ["nope", "--nope=1"]
        yield command, [run_dir, data, "--seed", "-1"]
    for command in ("inference.evaluate", "inference.exact", "benchmarks.training", "inference.interpolate"):
        for place in places.values():
            yield command, [str(place), "--images", "0"]
        yield command, []
        yield command, ["nowhere"]
        yield command, [data]
    yield "inference.interpolate", [run_dir, "--labels", "0-99"]
    yield "inference.interpolate", [run_dir, "--out", f"{data}/x.png"]
    yield "inference.graph", ["--model", "vae", "--out", "x.exe"]
    yield "inference.graph", ["--model", "vae", "--out", f"{data}/x.png"]
    yield "inference.compare", ["--model", "vae", "--run", run_dir]
    yield "inference.compare", ["--run", data]


def make_places(folder: Path) -> dict[str, Path]:
    """A finished run; data that are good, and data of the wrong shape, kind, range and labels."""
    x, y = np.random.RandomState(0).randint(0, 256, (40, 8, 8)).astype(np.uint8), np.arange(40) % 10
    good: dict[str, Any] = {"x_train": x[:30], "y_train": y[:30], "x_test": x[30:], "y_test": y[30:]}
    large, odd = np.zeros((30, 64, 64), np.uint8), np.zeros((30, 7, 9, 3), np.uint8)
    sets = {
        "data": good,
        "unlabelled": {"x_train": x[:30], "x_test": x[30:]},
        "large": {"x_train": large, "x_test": large},
        "odd": {"x_train": odd, "x_test": odd},
        "bad-empty": {},
        "bad-name": {"train": x},
        "bad-rank": good | {"x_train": x[0]},
        "bad-channels": good | {"x_train": np.zeros((30, 8, 8, 2))},
        "bad-none": good | {"x_test": x[:0], "y_test": y[:0]},
        "bad-sizes": good | {"x_test": x[30:, :6]},
        "bad-kind": good | {"x_train": x[:30].astype(str)},
        "bad-complex": good | {"x_train": x[:30].astype(complex)},
        "bad-nan": good | {"x_train": np.full((30, 8, 8), np.nan)},
        "bad-negative": good | {"x_train": -x[:30].astype(float)},
        "bad-range": good | {"x_train": 3.0 * x[:30]},
        "bad-labels": good | {"y_train": y[:29]},
        "bad-label-kind": good | {"y_train": y[:30] + 0.5},
        "bad-label-negative": good | {"y_train": y[:30] - 1},
        "bad-label-huge": good | {"y_train": y[:30] + 2**40},
        "bad-label-one-part": {"x_train": x[:30], "y_train": y[:30], "x_test": x[30:]},
        "bad-label-missing": good | {"y_test": y[30:] + 90},
    }
    places = {"folder": folder / "empty", "run": folder / "run", "text": folder / "text.npz"}
    for name, arrays in sets.items():
        places[f"{name}.npz"] = folder / f"{name}.npz"
        np.savez(places[f"{name}.npz"], **arrays)
    places["folder"].mkdir()
    places["text"].write_text("no archive\n")
    assert run([*VAE, "--run-dir", places["run"]], folder / "log").status == 0
    return places


def that_make_no_sense(folder: Path, share: float, data_dir: Path) -> Found:
    """Each is refused in one line with nothing changed on disk, or makes sense after all; no traceback."""
    draw, places = random.Random(0), make_places(folder)
    names = [str(place) for place in places.values()]
    trials = list(by_hand(places))
    for _ in range(round(3000 * share)):
        command = draw.choices(list(COMMANDS), WEIGHTS)[0]
        trials.append((command, line(draw, command, names)))
    found, refused, here = Found(""), 0, Path.cwd()
    os.chdir(places["folder"])
    before = listing(folder)
    try:
        for command, words in trials:
            outcome, complaint = tried(command, words)
            changed = listing(folder) != before
            if outcome == "refused" and changed:
                complaint = "it was refused, and has changed the disk"
            found.expect(not complaint, f"{command} {words!r:.300}: {complaint}")
            refused += outcome == "refused"
            before = listing(folder) if changed else before
    finally:
        os.chdir(here)
    found.said = f"command lines by chance and by hand, {refused} refused in one line, the others made sense"
    return found


def tried(command: str, words: list[str]) -> tuple[str, str]:
    """What came of a command line, and what was wrong with that. What would take long is left out."""
    out = io.StringIO()
    idle = {
        (svi, "fit"): lambda *_: 0,
        (datasets, "_download"): lambda *_: False,
        (graph, "draw"): lambda *_: None,
        (sweep, "train"): lambda *_: None,
        (sweep, "summarise"): lambda *_: None,
        (compare, "of_model"): lambda *_: {"agrees": True},
        (compare, "of_run"): lambda *_: [{"agrees": True}],
        (compare, "page"): lambda *_: "",
        (evaluate, "whole"): lambda *_: {},
        (evaluate.importance, "importance_sample"): lambda *_: mock.Mock(figures={}),
        (exact, "measure"): lambda *_: {"images": 1, "how": "", "test": {}},
        (table, "write_between"): lambda *_: None,
        (step, "race"): nothing,
        (bound, "importance_sample"): nothing,
        (training, "plain"): nothing,
        (sampling, "times"): nothing,
    }
    with contextlib.ExitStack() as stack:
        for (module, name), instead in idle.items():
            if hasattr(module, name):
                stack.enter_context(mock.patch.object(module, name, instead))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(out))
        try:
            COMMANDS[command](words)
        except UserError as error:
            said = str(error)
            return "refused", "" if said and "\n" not in said else f"said in more than a line: {said!r}"
        except SystemExit as end:
            return "helped", "" if not end.code else f"exit {end.code}"
        except Idle:
            return "made sense", ""
        except OSError as error:  # which `run_command` says in one line
            return "refused", "" if error.filename else f"{error!r}"
        except BaseException:
            return "broke", traceback.format_exc()[-1500:]
    return "made sense", ""


class Idle(Exception):
    """A command has come so far that it would begin to work."""


def nothing(*_: object, **__: object) -> None:
    raise Idle


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """All that is on disk below a folder, by name, size and time of change; locks apart."""
    return sorted(
        (str(path), path.stat().st_size, path.stat().st_mtime_ns if path.is_file() else 0)
        for path in folder.rglob("*")
        if path.name != "lock"
    )
