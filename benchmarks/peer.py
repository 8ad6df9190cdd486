"""The NumPyro process that `benchmarks.step` times, in an environment of its own, .peers/."""

import sys
import tempfile
import venv
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, run

from inference.errors import UserError
from tools.table import ROOT

PEERS = Path(__file__).with_name("peers")


class Peer:
    """A process in the environment .peers/ that runs steps on request and waits otherwise.

    Args:
        python: The Python of that environment.
    """

    def __init__(self, python: Path):
        command = [str(python), str(PEERS / "steps.py")]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in __exit__)
        self.process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=self.errors, text=True)

    def ask(self, request: str) -> float:
        """Sends a line and returns the answer.

        Raises:
            UserError: If the process has stopped.
        """
        assert self.process.stdin and self.process.stdout
        print(request, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            why = "".join(f" ({line})" for line in self.errors.read().splitlines()[-1:])
            raise UserError(
                f"the NumPyro process stopped at {request!r}{why}. Remove .peers and run the command again."
            )
        return float(answer)

    def time_steps(self, steps: int) -> float:
        """Runs a number of steps and returns milliseconds per step."""
        return self.ask(str(steps))

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()


def peers() -> Path | None:
    """Creates the environment .peers/ if it does not exist.

    Returns:
        Its Python; None if NumPyro cannot be installed.
    """
    folder = ROOT / ".peers"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(PEERS / "requirements.txt")]
        if run(install, stderr=DEVNULL).returncode:
            print("NumPyro cannot be installed. Its rows are omitted.", file=sys.stderr)
            return None
        ready.touch()
    return python
