"""The how-to pages about several processes: torchrun and `inference.svi` parse their commands."""

import os
import re
import shlex
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from inference.cli.train import parse

HOWTO = Path(__file__).parents[1] / "docs" / "howto"


def blocks(page: str, language: str = "") -> list[str]:
    """The blocks of a page in a language."""
    text = (HOWTO / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)


def parsed(command: list[str]) -> tuple[Namespace, Namespace]:
    """The options of torchrun and of the training that it starts."""
    assert command[0] == "torchrun"
    launcher = get_args_parser().parse_args(command[1:])
    assert launcher.module and launcher.training_script == "inference.svi"
    return launcher, parse(launcher.training_script_args)


def test_several_processes() -> None:
    gpus, cores, restarted = (shlex.split(block) for block in blocks("several-processes"))
    assert cores.pop(0) == "OMP_NUM_THREADS=1"
    found = [parsed(command) for command in (gpus, cores, restarted)]
    assert [launcher.nproc_per_node for launcher, _ in found] == ["4", "2", "4"]
    assert [launcher.max_restarts for launcher, _ in found] == [0, 0, 3]
    assert [training.model for _, training in found] == ["hvae", "conv_vae", "hvae"]
    assert all(training.run_dir for _, training in found)  # which a restart needs


@pytest.mark.parametrize("resumed", [False, True])
def test_slurm(resumed: bool, tmp_path: Path) -> None:
    """The script, with commands in the place of Slurm's."""
    (script,) = blocks("slurm", "bash")
    commands = {"scontrol": "printf 'node7\\nnode8\\n'", "srun": "printf '%s\\n' \"$@\""}
    for name, line in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    if resumed:
        (tmp_path / "runs" / "hvae-42").mkdir(parents=True)
        (tmp_path / "runs" / "hvae-42" / "config.json").touch()
    slurm = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2"}
    environment = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    launcher, training = parsed(done.stdout.splitlines())
    assert (launcher.nnodes, launcher.nproc_per_node, launcher.max_restarts) == ("2", "4", 3)
    assert (launcher.rdzv_backend, launcher.rdzv_endpoint) == ("c10d", "node7:29500")
    assert launcher.rdzv_id == "42"
    run = Path("runs/hvae-42")
    assert training.resume == run if resumed else (training.run_dir, training.model) == (run, "hvae")
