"""`sweep.json` of a sweep's folder: what the run folders do not say."""

import json
import re
import secrets
from pathlib import Path

from inference.backend.files import read_regular, write_whole
from inference.errors import UserError

MOST = 10**7  # bytes of sweep.json


class State:
    """The state of a sweep besides its runs.

    Attributes:
        token: a random number, by which a machine of a cluster sees that it has the same folder.
        stopped: the names of the runs that ASHA stopped. They are not continued.
    """

    def __init__(self, out: Path):
        """Reads the file of a sweep's folder, if there is one.

        Raises:
            UserError: the file is damaged.
        """
        self.path = out / "sweep.json"
        self.token, self.stopped = secrets.token_hex(16), list[str]()
        try:
            content = json.loads(read_regular(self.path, MOST))
            self.token, self.stopped = content["token"], content["stopped"]
            if not (re.fullmatch(r"[0-9a-f]{32}", self.token) and isinstance(self.stopped, list)):
                raise ValueError
        except FileNotFoundError:
            return
        except NotADirectoryError:
            return  # `write` reports it
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{self.path} is damaged. Remove it: stopped runs are then continued.") from None

    def write(self) -> None:
        """Writes the file.

        Raises:
            OSError: it cannot be written.
        """
        content = {"token": self.token, "stopped": self.stopped}
        write_whole(self.path, (json.dumps(content, indent=2) + "\n").encode())

    def stop(self, name: str) -> None:
        """Adds a run that ASHA stopped."""
        self.stopped.append(name)
        self.write()
