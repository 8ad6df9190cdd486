"""The outcomes of the mistakes that were tried, kept in docs/mutants.json, and the tables made from them."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.mutants.mutations import Mutation

Z = 1.959964  # of a 95 % interval
NOTICED = ("killed", "timeout")
NOT_NOTICED = ("survived", "partly")
REASONS = {
    "survived": "not looked at yet",
    "partly": "not tried with all tests yet",
}  # as long as there is none
SHARES = (
    "| package | possible mistakes | tried | noticed | by a timeout | share | 95 % interval |\n"
    "|---|---|---|---|---|---|---|\n"
)
SURVIVORS = "| file | mistake | why no test notices it |\n|---|---|---|\n"


class Outcomes:
    """The file of outcomes.

    Attributes:
        possible: the number of possible mistakes of each package.
        files: for each file of code its digest when it was tried, the keys of the mistakes with each outcome
            in `NOTICED`, the mistakes in `NOT_NOTICED`, and what people wrote about these, by their keys.
            A mistake that survived some of the tests, where the others were not tried, is in `partly`.

    Args:
        path: of the file, which is created with the first outcome.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.possible: dict[str, int] = {}
        self.files: dict[str, dict[str, Any]] = {}
        self.read()

    def read(self) -> None:
        """Reads the file, into which another process may have written."""
        content = json.loads(self.path.read_bytes()) if self.path.exists() else {"possible": {}, "files": {}}
        self.possible = content["possible"] | self.possible
        self.files = content["files"]

    def get(self, mutation: Mutation, digest: str) -> str | None:
        """Returns the outcome of a mutation; None if it was not tried, or if its file has changed since.

        Args:
            mutation: the change.
            digest: of the file today.
        """
        kept = self.files.get(mutation.path, {})
        if kept.get("digest") != digest:
            return None
        found = [result for result in NOTICED if mutation.key in kept[result].split()]
        found += [result for result in NOT_NOTICED if mutation.key in kept[result]]
        return found[0] if found else None

    def put(self, mutation: Mutation, digest: str, result: str) -> None:
        """Writes the outcome of a mutation. If its file has changed, the other outcomes of the file go.

        Args:
            mutation: the change.
            digest: of the file today.
            result: one of `NOTICED` or `NOT_NOTICED`.
        """
        self.read()
        kept = self.files.setdefault(mutation.path, {"reasons": {}})
        if kept.get("digest") != digest:
            kept |= {"digest": digest, **dict.fromkeys(NOTICED, ""), "survived": {}, "partly": {}}
        for before in NOT_NOTICED:
            kept[before].pop(mutation.key, None)
        if result in NOTICED:
            kept[result] = " ".join(sorted({*kept[result].split(), mutation.key}))
            kept["reasons"].pop(mutation.key, None)
        else:
            kept[result][mutation.key] = mutation.described
        self.write()

    def write(self) -> None:
        """Writes the file."""
        content = {"possible": self.possible, "files": dict(sorted(self.files.items()))}
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)

    def shares(self) -> str:
        """The table of how many mistakes of each package were noticed, with 95 % intervals."""
        rows = ""
        for package, possible in sorted(self.possible.items()):
            kept = [each for path, each in self.files.items() if path.startswith(f"{package}/")]
            counts = {result: sum(len(each[result].split()) for each in kept) for result in NOTICED}
            counts["survived"] = sum(len(each[result]) for each in kept for result in NOT_NOTICED)
            rows += row(package, possible, counts) if any(counts.values()) else ""
        return SHARES + rows

    def survivors(self) -> str:
        """The table of the mistakes that no test noticed."""
        rows = ""
        for path, kept in sorted(self.files.items()):
            for result in NOT_NOTICED:
                for key, described in kept[result].items():
                    described = described.replace("|", "\\|")
                    rows += f"| `{path}` | {described} | {kept['reasons'].get(key, REASONS[result])} |\n"
        return SURVIVORS + rows


def row(package: str, possible: int, counts: Mapping[str, int]) -> str:
    """A row of the table of shares, from the number of mistakes with each outcome."""
    tried, timeouts = sum(counts.values()), counts["timeout"]
    noticed = tried - counts["survived"]
    low, high = wilson(noticed, tried)
    share = f"{noticed / tried:.0%} | {low:.0%} to {high:.0%}".replace("%", " %")
    return f"| `{package}` | {possible:,} | {tried} | {noticed} | {timeouts} | {share} |\n"


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a probability by Wilson's score (1927), from n independent trials.

    Example:
        >>> [round(end, 3) for end in wilson(45, 50)]
        [0.786, 0.957]
    """
    p, spread = successes / n, Z**2 / n
    centre = (p + spread / 2) / (1 + spread)
    half = Z * math.sqrt(p * (1 - p) / n + spread / (4 * n)) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def digest(path: Path) -> str:
    """The digest of a file by which an outcome is known to be of its present state."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
