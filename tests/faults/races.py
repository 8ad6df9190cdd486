"""Two runs that start on one folder at the same time."""

import os
import signal
from pathlib import Path

from .sandbox import SSVAE, VAE, Child, Report, difference, run


def start_two_runs(folder: Path, fraction: float, data_dir: Path) -> Report:
    """Starts pairs of processes at once, on a new folder or to resume one run; one of each pair must win."""
    report = Report(
        "pairs started on one folder: one ends as if it were alone, the other exits with status 2"
    )
    log, alone = folder / "log", {}
    for seed, model in enumerate((VAE, SSVAE)):
        alone[seed] = [*model, "--seed", seed, "--run-dir", folder / f"alone-{seed}"]
        assert run(alone[seed], log, pictures=False).status == 0
    for i in range(max(round(50 * fraction), 2)):
        run_dir = folder / f"pair-{i}"
        commands = [[*alone[seed][:-1], run_dir] for seed in alone]
        if i % 2:  # resume one stopped run twice
            stopped = Child(commands[0], log, pictures=False)
            while not (run_dir / "checkpoint.pt").exists() and stopped.wait(0) is None:
                pass
            stopped.kill(signal.SIGKILL)
            stopped.wait()
            commands = [["--resume", run_dir]] * 2
        ready, go = os.pipe()
        pair = []
        for number, command in enumerate(commands):
            start = lambda: (os.close(go), os.read(ready, 1))  # noqa: E731, B023
            pair.append(Child(command, folder / f"log-{number}", before=start, pictures=False))
        os.close(go)  # both children read the end of the pipe at the same time
        os.close(ready)
        results = [child.wait() for child in pair]
        statuses = [result.status for result in results]  # type: ignore[union-attr]
        problem = f"statuses {statuses}: {[result.text for result in results]}"  # type: ignore[union-attr]
        if sorted(statuses) == [0, 2]:
            loser = results[statuses.index(2)].text  # type: ignore[union-attr]
            refused = "is in use" in loser or "is not empty" in loser or "is at step" in loser
            problem = "" if refused and loser.count("error:") == 1 else f"the other printed {loser}"
            winner = 0 if i % 2 else statuses.index(0)
            problem = problem or difference(folder / f"alone-{winner}", run_dir)
        report.check(not problem, f"pair {i}: {problem}")
    return report
