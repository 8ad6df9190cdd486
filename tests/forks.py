"""Python programs in processes forked from one that has imported the libraries.

`run` is `subprocess.run` of `python ARGUMENTS`, without the seconds in which torch and Pyro are imported: the
program starts in a fresh process, where nothing of the package has run yet. The workers of pytest-xdist
share the process that is forked. On other systems than Linux, where libraries may not work after a fork,
the program is started as usual.
"""

import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from subprocess import DEVNULL, PIPE, CompletedProcess, Popen
from typing import Any, TextIO

ROOT = Path(__file__).parents[1]
SECONDS = 900  # after which a program that hangs is killed
SOCKET = "PPL_MODELS_FORKS"  # environment variable: the socket of the process that is forked
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

# What the commands import, also late: torch imports its compiler in the first step of an optimiser.
IMPORTED = ("inference.sweep", "inference.evaluate", "torch._dynamo", "torch._inductor.config")
IMPORTED += ("matplotlib.figure", "sklearn.datasets", "sklearn.decomposition", "sklearn.linear_model")

# A command without the pictures and the report of its run: run("-c", QUICK, MODULE, ARGUMENTS).
QUICK = """
import importlib, sys
from inference import fitting
from inference.cli.entry import run_command
from inference.html import report

report.update = fitting.draw_all = lambda *_: None
run_command(importlib.import_module(sys.argv.pop(1)).main)
"""


def run(
    *arguments: str, cwd: Path = ROOT, env: Mapping[str, str] = ENVIRONMENT, processes: int = 1
) -> "CompletedProcess[str]":
    """Runs `python ARGUMENTS`, which begin with -m MODULE, -c PROGRAM or a file.

    Args:
        arguments: The command line.
        cwd: The folder in which the program runs.
        env: All its environment variables.
        processes: The number of processes that run it. If there are more than one, their environment is that
            of torchrun. They write to one output.

    Returns:
        The largest exit status, and the output.
    """
    if sys.platform != "linux":
        return started(*arguments, cwd=cwd, env=env, processes=processes)
    start()
    connection = _connection(os.environ[SOCKET])
    request = {"arguments": arguments, "cwd": str(cwd), "env": dict(env), "processes": processes}
    connection.write(json.dumps(request) + "\n")
    connection.flush()
    return CompletedProcess(["python", *arguments], **json.loads(connection.readline()))


def started(
    *arguments: str, cwd: Path = ROOT, env: Mapping[str, str] = ENVIRONMENT, processes: int = 1
) -> "CompletedProcess[str]":
    """Does what `run` does without a fork."""
    needed = {"SYSTEMROOT": os.environ["SYSTEMROOT"]} if "SYSTEMROOT" in os.environ else {}  # by Windows
    port = str(_free_port())
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("stdout", "stderr")]
        with open(paths[0], "ab") as out, open(paths[1], "ab") as err:
            children = [
                Popen(
                    [sys.executable, *arguments],
                    cwd=cwd,
                    env={**needed, **env, **(_torchrun(rank, processes, port) if processes > 1 else {})},
                    stdin=DEVNULL,
                    stdout=out,
                    stderr=err,
                )
                for rank in range(processes)
            ]
            statuses = [child.wait(SECONDS) for child in children]
        stdout, stderr = (path.read_text("utf-8", errors="replace") for path in paths)
    return CompletedProcess(["python", *arguments], max(statuses, key=abs), stdout, stderr)


@cache
def _connection(path: str) -> TextIO:
    """A connection to the process that is forked."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        return client.makefile("rw")


_started: "list[tuple[Popen[bytes], tempfile.TemporaryDirectory[str]]]" = []


def start() -> None:
    """Starts the process that the programs are forked from, unless this process or its parent has.

    It ends when the input that it gets from this process does. It imports the libraries at the first request.
    """
    if SOCKET in os.environ:
        return
    folder = tempfile.TemporaryDirectory(prefix="ppl-models-forks-")
    os.environ[SOCKET] = str(Path(folder.name, "socket"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.environ[SOCKET])
        listener.listen()
        number = listener.fileno()
        command = [sys.executable, "-m", "tests.forks", str(number)]
        server = Popen(command, cwd=ROOT, env=ENVIRONMENT, stdin=PIPE, pass_fds=[number])
    _started.append((server, folder))


def close() -> None:
    """Ends the process that the programs are forked from, if this process has started it."""
    while _started:
        server, folder = _started.pop()
        _connection.cache_clear()
        server.communicate()
        folder.cleanup()
        del os.environ[SOCKET]


def _serve(listener: socket.socket) -> None:
    """Forks a process for each connection, until the input ends."""
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        for name in IMPORTED:
            importlib.import_module(name)
        if os.fork() == 0:
            listener.close()
            stream = connection.makefile("rw")
            for line in stream:
                print(json.dumps(_answer(**json.loads(line))), file=stream, flush=True)
            os._exit(0)
        connection.close()


def _answer(arguments: list[str], cwd: str, env: dict[str, str], processes: int) -> dict[str, Any]:
    """Forks the processes of a request and waits for them."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("stdout", "stderr")]
        port = str(_free_port())
        children = []
        for rank in range(processes):
            own = _torchrun(rank, processes, port) if processes > 1 else {}
            pid = os.fork()
            if pid == 0:
                _become(arguments, cwd, env | own, *paths)
            children.append(pid)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        stdout, stderr = (path.read_text(errors="replace") for path in paths)
    return {"returncode": max(statuses, key=abs), "stdout": stdout, "stderr": stderr}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _torchrun(rank: int, processes: int, port: str) -> dict[str, str]:
    """The environment variables that torchrun sets, for one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    return {key: str(number) for key, number in numbers.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


def _become(arguments: list[str], cwd: str, env: dict[str, str], stdout: Path, stderr: Path) -> None:
    """Runs the program in this forked process, and exits as Python does."""
    status: Any = 1
    try:
        signal.alarm(SECONDS)
        for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, stdout, None), (2, stderr, None)):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if flags is None else flags
            os.dup2(os.open(path, flags, 0o666), number)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        sys.path[:] = ["", *env.get("PYTHONPATH", "").split(os.pathsep), *sys.path[1:]]
        kind, *rest = arguments
        if kind == "-m":
            sys.argv = rest
            warnings.filterwarnings("ignore", message=".*found in sys.modules after import")
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = arguments
            runpy.run_path(kind, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
