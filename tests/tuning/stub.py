"""What a sweep takes for a training: a program that writes a run's files, and does what its beta says.

beta=1: it ends. beta=3: it fails. beta=4: SIGKILL ends its first attempt.
beta=5: it trains until it gets SIGTERM, and then saves. beta=13: SIGKILL ends every attempt.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS = 40
began = time.monotonic()


def save_and_stop(number: int, frame: object) -> None:
    (folder / "checkpoint.pt").write_text("saved")
    sys.exit(130)


signal.signal(signal.SIGTERM, save_and_stop)
resumed = sys.argv[1] == "--resume"
folder = Path(sys.argv[2] if resumed else sys.argv[-1])
beta = float(folder.parent.name.partition("=")[2])
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.json").write_text("{}")
started = folder.parent / f"{folder.name}.started"
started.write_text(started.read_text() + "again\n" if started.exists() else "first\n")
(folder / "environment.json").write_text(json.dumps(dict(os.environ)))
print(f"beta is {beta}", flush=True)
if beta == 3:
    print("error: it diverged", flush=True)
    sys.exit(1)
with open(folder / "metrics.jsonl", "a") as file:
    for step in range(2, STEPS + 1, 2):
        for split, value in (("test", -1.0), ("validation", 100 * beta + step)):
            print(json.dumps({"step": step, "split": split, "negative_elbo": value}), file=file, flush=True)
        if step == 10 and (beta == 13 or (beta == 4 and not resumed)):
            os.kill(os.getpid(), signal.SIGKILL)
        while beta == 5 and step == 10 and time.monotonic() < began + 60:
            time.sleep(0.01)
value = {"value": 100 * beta}
results = {"test": {"negative_elbo": value}, "validation": {"negative_elbo": value}}
(folder / "results.json").write_text(json.dumps(results))
