"""Importing the package changes no global state, and a command line is parsed without the heavy libraries."""

import json
import subprocess
import sys
from typing import Any

import pytest

SNAPSHOT = """
import json, logging, os, pkgutil, signal, sys, warnings
import matplotlib, numpy, pyro, torch

def state():
    denormal = torch.full((16,), 1e-30) * 1e-10
    return {
        "backend": repr(dict.__getitem__(matplotlib.rcParams, "backend")),
        "other settings of matplotlib": repr(sorted(matplotlib.rcParams.copy().items())),
        "pyplot": "matplotlib.pyplot" in sys.modules,
        "float32 precision": torch.get_float32_matmul_precision(),
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "denormal numbers are kept": bool((denormal > 0).all()),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuda": torch.cuda.is_initialized(),
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": repr(numpy.random.get_state()),
        "validation": {name: value for name, value in pyro.settings.get().items() if "valid" in name},
        "parameters": list(pyro.get_param_store()),
        "warnings": repr(warnings.filters),
        "logging": [logging.root.level, logging.root.manager.disable, len(logging.root.handlers)],
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "hooks": [repr(sys.excepthook), repr(sys.displayhook)],
        "environment": dict(os.environ),
    }

before = state()
import benchmarks, inference, ppl_models
imported = []
for package in (ppl_models, inference, benchmarks):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        # of another environment, and what imports Ray when a sweep starts: Ray sets variables and warnings
        others = ("benchmarks.peers", "inference.tuning.engine", "inference.tuning.trial")
        if not module.name.startswith(others):
            __import__(module.name)
            imported.append(module.name)
after = state()
print(json.dumps({"imported": imported, "before": before, "after": after}))
"""


HEAVY = (
    "matplotlib",
    "sklearn",
    "torchvision",
    "arviz",
    "scipy",
    "pandas",
    "torch._inductor",
    "torch._dynamo",
)


COMMANDS = ["svi", "evaluate", "compare", "report", "sweep", "exact", "graph", "interpolate", "masks"]
COMMANDS += ["sample", "encode", "score", "diagnose"]

# One command after the other: a library that one of them imports is not counted again.
PARSED = f"""
import importlib, json, pyro, sys, torch
for name in sys.argv[1:]:
    before, said = set(sys.modules), ""  # the first time: what torch and pyro load by themselves
    command = importlib.import_module("inference." + name)
    from inference.errors import UserError
    try:
        command.main(["--hepl"])
    except UserError as error:
        said = str(error)
    print(json.dumps([name, said, sorted((set(sys.modules) - before).intersection({HEAVY}))]))
"""


# Both in processes that have imported torch and Pyro, which takes seconds.
PROGRAM = f"""
import os, pyro, sys, torch
child = os.fork()
if child == 0:
    exec({PARSED!r})
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
exec({SNAPSHOT!r})
"""


@pytest.fixture(scope="module")
def printed() -> list[Any]:
    """What `PARSED` prints for each command, and what `SNAPSHOT` prints."""
    command = [sys.executable, "-c", PROGRAM, *COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_imports_change_no_global_state(printed: list[Any]) -> None:
    *_, found = printed
    assert {"inference.svi", "inference.plots.images", "inference.masks", "ppl_models.vae"} <= set(
        found["imported"]
    )
    assert found["after"] == found["before"]
    assert not found["after"]["pyplot"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_is_parsed_without_the_heavy_libraries(command: str, printed: list[Any]) -> None:
    name, said, loaded = printed[COMMANDS.index(command)]
    assert name == command
    assert "unknown option '--hepl': did you mean --help?" in said or "required: " in said
    assert loaded == []
