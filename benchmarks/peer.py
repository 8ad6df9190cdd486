"""What is measured in an environment of its own, .peers/, and asked over a pipe."""

import sys
import venv
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, run

from inference.errors import UserError
from tools.table import ROOT

PEERS = Path(__file__).with_name("peers")


class Peer:
    """A process in the peers' environment, which makes steps when asked, and is idle in between."""

    def __init__(self, python: Path):
        command = [str(python), str(PEERS / "steps.py")]
        self.process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True)

    def ask(self, word: str) -> float:
        """The answer to one line. Raises UserError where the peer has broken down."""
        assert self.process.stdin and self.process.stdout
        print(word, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise UserError(f"the peer broke down at {word!r}: remove .peers, and it is made anew")
        return float(answer)

    def steps(self, steps: int) -> float:
        """Milliseconds a step, of so many."""
        return self.ask(str(steps))

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def peers() -> Path | None:
    """The Python of the peers' environment, made where it is not there yet; None where that cannot be."""
    folder = ROOT / ".peers"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(PEERS / "requirements.txt")]
        if run(install, stderr=DEVNULL).returncode:
            print("NumPyro cannot be installed here, and is left out", file=sys.stderr)
            return None
        ready.touch()
    return python
