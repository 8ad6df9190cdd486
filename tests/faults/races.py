"""Two runs at once on one folder."""

import os
import signal
from pathlib import Path

from .sandbox import SSVAE, VAE, Child, Found, run, same


def on_one_folder(folder: Path, share: float, data_dir: Path) -> Found:
    """Pairs begun together on a new folder, or that go on with the same run: one wins, the other says so."""
    found = Found(
        "pairs raced on one folder: one ends as if it were alone, the other is refused with status 2"
    )
    log, alone = folder / "log", {}
    for seed, model in enumerate((VAE, SSVAE)):
        alone[seed] = [*model, "--seed", seed, "--run-dir", folder / f"alone-{seed}"]
        assert run(alone[seed], log, draw=False).status == 0
    for i in range(max(round(50 * share), 2)):
        raced = folder / f"raced-{i}"
        commands = [[*alone[seed][:-1], raced] for seed in alone]
        if i % 2:  # a run that was stopped, twice
            stopped = Child(commands[0], log, draw=False)
            while not (raced / "checkpoint.pt").exists() and stopped.ended(0) is None:
                pass
            stopped.kill(signal.SIGKILL)
            stopped.ended()
            commands = [["--resume", raced]] * 2
        ready, go = os.pipe()
        pair = []
        for number, command in enumerate(commands):
            start = lambda: (os.close(go), os.read(ready, 1))  # noqa: E731, B023
            pair.append(Child(command, folder / f"log-{number}", before=start, draw=False))
        os.close(go)  # both read its end at once
        os.close(ready)
        ends = [child.ended() for child in pair]
        statuses = [end.status for end in ends]  # type: ignore[union-attr]
        differs = f"statuses {statuses}: {[end.text for end in ends]}"  # type: ignore[union-attr]
        if sorted(statuses) == [0, 2]:
            loser = ends[statuses.index(2)].text  # type: ignore[union-attr]
            said = "is in use" in loser or "is not empty" in loser or "is at step" in loser
            differs = "" if said and loser.count("error:") == 1 else f"the other said {loser}"
            winner = 0 if i % 2 else statuses.index(0)
            differs = differs or same(folder / f"alone-{winner}", raced)
        found.expect(not differs, f"pair {i}: {differs}")
    return found
