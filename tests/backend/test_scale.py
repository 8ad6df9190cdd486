"""On one, two and four processes a step on images from disk is the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from inference.compiled.checks import norm
from tests import forks

SCRIPT = Path(__file__).with_name("scaled.py")
NAMES = ("pixel_vae", "af_vae", "vqvae")
Case = tuple[str, str, str, int]  # model, mode, precision, batches per step
State = dict[str, list[Tensor]]  # gradients' moving averages, and parameters, after the last step


def images(folder: Path, side: int) -> Path:
    """A file of colour images whose levels follow each other, so that models have something to learn."""
    random = np.random.default_rng(0)
    levels = random.integers(200, size=(80, 1, 1, 3)) + random.integers(56, size=(80, side, side, 3))
    np.save(folder / "images.npy", levels.astype(np.uint8))
    return folder / "images.npy"


def states(file: Path, cases: list[Case], processes: int) -> dict[str, State]:
    """The state after the last step, by case."""
    out = file.with_name(f"{processes}.pt")
    done = forks.run(str(SCRIPT), str(file), str(out), json.dumps(cases), processes=processes)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return torch.load(out, weights_only=True)


def apart(ours: State, theirs: State) -> float:
    """The largest relative difference, in the Euclidean norm of all gradients or parameters."""
    differences = []
    for key, tensors in theirs.items():
        difference = norm([a.double() - b.double() for a, b in zip(ours[key], tensors, strict=True)])
        differences.append(difference / norm(tensors))
    return max(differences)


def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    """From a file on disk, compiled, and with several batches per step."""
    cases: list[Case] = [("pixel_vae", "inductor", "float64", 1), ("vqvae", "inductor", "float64", 2)]
    file = images(tmp_path, 32)
    one, two = (states(file, cases, processes) for processes in (1, 2))
    assert two.keys() == one.keys()
    for name in one:
        assert apart(two[name], one[name]) < 1e-9, name


@pytest.mark.full
def test_steps_at_64_x_64_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    """In float64 to 1e-9. In bfloat16 to its rounding, which depends on how many images are summed."""
    cases: list[Case] = [
        (name, mode, precision, accumulate)
        for name in NAMES
        for mode, precision in (("eager", "float64"), ("inductor", "float64"), ("eager", "bfloat16"))
        for accumulate in (1, 2)
    ]
    file = images(tmp_path, 64)
    one = states(file, cases, 1)
    for processes in (2, 4):
        found = states(file, cases, processes)
        assert found.keys() == one.keys()
        for name, state in found.items():
            assert apart(state, one[name]) < (1e-9 if "float64" in name else 1e-1), (processes, name)
    for name in NAMES:  # the modes agree, and bfloat16 is another arithmetic
        for accumulate in (1, 2):
            eager = one[f"{name} eager float64 {accumulate}"]
            assert apart(one[f"{name} inductor float64 {accumulate}"], eager) < 1e-9
            assert apart(one[f"{name} eager bfloat16 {accumulate}"], eager) > 1e-6
