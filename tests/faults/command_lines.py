"""Invalid command lines, random ones and typical mistakes."""

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

import inference.compare as compare_command
import inference.evaluate as evaluate_command
from benchmarks import bound, sampling, step, training
from inference import exact, graph, interpolate, masks, svi, sweep
from inference.cli.train import build_parser, code_priors
from inference.data import torchvision_sets
from inference.errors import UserError
from inference.rundir.config import flag
from ppl_models import MODELS
from tools import table

from .sandbox import VAE, Report, run

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
        "--optimizer",
        "--select",
        "--early-stopping",
        "--lr-warmup",
        "--clip",
    ),
    *(
        "--ema",
        "--precision",
        "--kl-warmup",
        "--elbo",
        "--particles",
        "--code-prior",
        "--stage1-run",
        "--validation",
        "--seed",
    ),
    *(
        "--device",
        "--run-dir",
        "--resume",
        "--over",
        "--seeds",
        "--cpus",
        "--gpus",
        "--samples",
        "--search",
        "--asha",
        "--out",
        "--run",
        "--images",
        "--ais",
        "--json",
    ),
    *("--memory", "--labels", "--rounds", "--pixels"),
]
FLAGS += sorted({flag(key) for cls in MODELS.values() for key in cls.options()})
COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "inference.svi": svi.main,
    "inference.sweep": sweep.main,
    "inference.compare": compare_command.main,
    "inference.graph": graph.main,
    "inference.evaluate": evaluate_command.main,
    "inference.exact": exact.main,
    "inference.interpolate": interpolate.main,
    "inference.masks": masks.main,
    "tools.table": table.main,
    "benchmarks.step": step.main,
    "benchmarks.bound": bound.main,
    "benchmarks.training": training.main,
    "benchmarks.sampling": sampling.main,
}
WEIGHTS = [12, 4, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]  # relative frequency of each command


def random_value(rng: random.Random, name: str, paths: list[str]) -> str:
    """Returns a value for an option, often one of another kind."""
    valid = {
        "--model": list(MODELS),
        "--data": ["digits", "gauss-full-1", *paths],
        "--elbo": ["trace", "mean_field", "enum", "iwae", "iwae_dreg"],
        "--code-prior": code_priors(),
        "--over": ["lr=1e-3", "beta=0,1", "=", "lr=", "lr=0,x", "seed=1", "lr=log(1e-4,1)", "lr=log(1,"],
        "--labels": ["1-7", "10", "1-", "-"],
    }
    own = valid.get(name, NUMBERS[:6])
    return rng.choice(rng.choice([own, own, NUMBERS, TEXTS, paths]))


def typo(rng: random.Random, word: str) -> str:
    """Returns a word with one letter removed, doubled or replaced."""
    at = rng.randrange(len(word))
    return word[:at] + rng.choice(["", 2 * word[at], rng.choice("abz-_9")]) + word[at + 1 :]


def random_arguments(rng: random.Random, command: str, paths: list[str]) -> list[str]:
    """Returns random options, some of other commands, with random values, valid or not."""
    words = []
    if command in ("inference.svi", "inference.sweep") and rng.random() < 0.8:
        words += ["--model", rng.choice(list(MODELS))]
    if command in ("inference.svi", "inference.sweep") and rng.random() < 0.8:
        words += ["--data", rng.choice(["digits", *paths])]
    if command == "inference.sweep" and rng.random() < 0.8:
        words += ["--over", random_value(rng, "--over", paths)]
    if command not in ("inference.svi", "inference.sweep", "inference.compare") and rng.random() < 0.8:
        words += [rng.choice(paths)]
    given = words[1] if words[:1] == ["--model"] else None
    own_flags = (
        sorted(build_parser(given).flags() - {"--help", "-h"}) if command == "inference.svi" else FLAGS
    )
    for _ in range(rng.randint(0, 4)):
        name = rng.choice(own_flags if rng.random() < 0.9 else FLAGS)
        value = random_value(rng, name, paths)
        mistakes = [[f"{name}={value}"], [typo(rng, name), value], [name], [value]]
        words += [name, value] if rng.random() < 0.6 else rng.choice(mistakes)
    return words


def typical_mistakes(paths: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Yields commands and arguments with mistakes that people make."""
    run_dir, data = str(paths["run"]), str(paths["data.npz"])
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
        [*vae, "--code-prior", "pixelcnn"],
        ["--model", "ae", "--data", "digits", "--elbo", "iwae"],
        ["--model", "vqvae", "--data", "digits", "--elbo", "iwae"],
        ["--model", "ppca", "--data", "digits", "--z-dim", "65"],
        ["--model", "vae2d", "--data", "digits"],
        ["--model", "conv_vae", "--data", "smiley"],
        ["--model", "flow", "--hidden", "1000000000"],
        ["--model", "made", "--data", "digits", "--layers", "1000000000"],
        ["--model", "code_pixelcnn", "--data", "digits", "--codes", "3"],
        ["--model", "code_transformer", "--data", "digits", "--width", "9", "--heads", "2"],
        ["--model", "ssvae", "--data", "digits", "--labels", "1000000"],
        ["--model", "ssvae", "--data", str(paths["unlabelled.npz"])],
        ["--model", "fsvae", "--data", str(paths["unlabelled.npz"])],
        ["--model", "conv_vae", "--data", str(paths["large.npz"])],
        ["--model", "gated_vae", "--data", str(paths["odd.npz"])],
        *(["--model", "fsvae", "--data", str(paths[name])] for name in paths if name.startswith("bad")),
        ["--stage1-run", run_dir, "--code-prior", "pixelcnn"],
        ["--stage1-run", run_dir],
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
        for path in paths.values():
            yield command, [str(path), "--images", "0"]
        yield command, []
        yield command, ["nowhere"]
        yield command, [data]
    yield "inference.interpolate", [run_dir, "--labels", "0-99"]
    yield "inference.interpolate", [run_dir, "--out", f"{data}/x.png"]
    yield "inference.graph", ["--model", "vae", "--out", "x.exe"]
    yield "inference.graph", ["--model", "vae", "--out", f"{data}/x.png"]
    yield "inference.compare", ["--model", "vae", "--run", run_dir]
    yield "inference.compare", ["--run", data]


def make_files(folder: Path) -> dict[str, Path]:
    """Makes a finished run, a valid data file, and data files of wrong shapes, types, ranges and labels."""
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
    paths = {"folder": folder / "empty", "run": folder / "run", "text": folder / "text.npz"}
    for name, arrays in sets.items():
        paths[f"{name}.npz"] = folder / f"{name}.npz"
        np.savez(paths[f"{name}.npz"], **arrays)
    paths["folder"].mkdir()
    paths["text"].write_text("not an archive\n")
    assert run([*VAE, "--run-dir", paths["run"]], folder / "log").status == 0
    return paths


def give_invalid_commands(folder: Path, fraction: float, data_dir: Path) -> Report:
    """Gives invalid command lines; no traceback may result.

    A command line must be refused in one line and change nothing on disk, or it must be valid after all.
    Below a tenth of the trials, every third of the typical mistakes is tried.
    """
    rng, paths = random.Random(0), make_files(folder)
    names = [str(path) for path in paths.values()]
    trials = list(typical_mistakes(paths))[:: 3 if fraction < 0.1 else 1]
    for _ in range(round(3000 * fraction)):
        command = rng.choices(list(COMMANDS), WEIGHTS)[0]
        trials.append((command, random_arguments(rng, command, names)))
    report, refused, here = Report(""), 0, Path.cwd()
    os.chdir(paths["folder"])
    before = listing(folder)
    try:
        for command, words in trials:
            outcome, problem = attempt(command, words)
            changed = listing(folder) != before
            if outcome == "refused" and changed:
                problem = "it was refused, but changed files"
            report.check(not problem, f"{command} {words!r:.300}: {problem}")
            refused += outcome == "refused"
            before = listing(folder) if changed else before
    finally:
        os.chdir(here)
    report.summary = f"random and typical command lines, {refused} refused in one line, the others valid"
    return report


def attempt(command: str, words: list[str]) -> tuple[str, str]:
    """Runs a command, without the parts that take long.

    Returns:
        The outcome, and a description of the problem; "" if there is none.
    """
    out = io.StringIO()
    idle = {
        (svi, "train_session"): lambda *_, **__: mock.Mock(status=0),
        (torchvision_sets, "_download"): lambda *_: False,
        (graph, "draw"): lambda *_: None,
        (sweep, "check_packages"): lambda: None,
        (sweep, "run_trials"): lambda *_: (False, []),
        (sweep, "summarise"): lambda *_: None,
        (compare_command, "compare_example"): lambda *_: {"agrees": True},
        (compare_command, "compare_run"): lambda *_: [{"agrees": True}],
        (evaluate_command, "evaluate_as_asked"): lambda *_: {},
        (exact, "exact_of_run"): lambda *_: {},
        (exact, "format_exact"): lambda *_: "",
        (exact, "annealed_bounds"): nothing,
        (table, "write_between"): lambda *_: None,
        (step, "peers"): nothing,
        (bound, "importance_sample"): nothing,
        (training, "plain"): nothing,
        (sampling, "times"): nothing,
    }
    with contextlib.ExitStack() as stack:
        for (module, name), instead in idle.items():
            stack.enter_context(mock.patch.object(module, name, instead))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(out))
        try:
            COMMANDS[command](words)
        except UserError as error:
            message = str(error)
            return "refused", "" if message and "\n" not in message else f"more than one line: {message!r}"
        except SystemExit as end:
            return "help", "" if not end.code else f"exit {end.code}"
        except Idle:
            return "valid", ""
        except OSError as error:  # `run_command` prints it in one line
            return "refused", "" if error.filename else f"{error!r}"
        except BaseException:
            return "crashed", traceback.format_exc()[-1500:]
    return "valid", ""


class Idle(Exception):
    """Raised when a command has accepted its arguments and starts to work."""


def nothing(*_: object, **__: object) -> None:
    """Stands in for the work of a command."""
    raise Idle


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Returns path, size and modification time of everything in a folder, except locks."""
    return sorted(
        (str(path), path.stat().st_size, path.stat().st_mtime_ns if path.is_file() else 0)
        for path in folder.rglob("*")
        if path.name != "lock"
    )
