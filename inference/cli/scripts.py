"""The console scripts `ppl-train`, `ppl-evaluate`, ...: each is one command `python -m inference.NAME`."""

from collections.abc import Callable
from importlib import import_module

from inference.cli.entry import exit_on_interrupt, run_command


def _script(name: str) -> Callable[[], None]:
    def script() -> None:
        exit_on_interrupt()  # before the import, which takes seconds
        run_command(import_module(f"inference.{name}").main)

    return script


train = _script("svi")
compare = _script("compare")
diagnose = _script("diagnose")
encode = _script("encode")
evaluate = _script("evaluate")
exact = _script("exact")
graph = _script("graph")
interpolate = _script("interpolate")
masks = _script("masks")
report = _script("report")
sample = _script("sample")
score = _script("score")
sweep = _script("sweep")
