"""Runs `inference.svi` in a process that stops, with its checkpoint, if its parent process ends.

python -m inference.tuning.child ARGUMENTS

Ray may end the parent without a signal to this process, which would then train on unseen.
"""

import os
import runpy
import signal
import threading
import time


def stop_without(parent: int) -> None:
    """Waits until a process is no longer the parent of this one, and sends this one SIGTERM."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=stop_without, args=(os.getppid(),), daemon=True).start()
    runpy.run_module("inference.svi", run_name="__main__", alter_sys=True)
