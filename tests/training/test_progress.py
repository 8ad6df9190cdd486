"""The lines and the bar of a training, and what a signal does."""

import signal
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from inference.training import progress
from inference.training.progress import Progress, StopSignals, table

METRICS = {"test": {"negative_elbo": 101.23456, "accuracy": 0.5}, "train": {"kl": 1.0}}


def at(step: int) -> Any:
    """A training loop at a step."""
    return SimpleNamespace(step=step)


def test_a_line_has_the_speed_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """40 steps in 4 seconds after a start at step 20 leave 40 steps, which take 4 seconds."""
    now = [5.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    with Progress(100) as shown:
        shown.start(20)
        now[0] = 9.0
        shown.on_evaluate(at(20), METRICS)
        shown.on_evaluate(at(60), METRICS)
        shown.on_evaluate(at(60), {})
    first = "test: -ELBO 101.2  accuracy 0.5"
    lines = [f"step 20/100  {first}", f"step 60/100  {first}  (10.0 steps/s, 00:04 left)"]
    assert capsys.readouterr().out.splitlines() == lines


def test_a_terminal_gets_a_bar_with_the_terms(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(100) as shown:
        shown.start(20)
        assert shown.bar.n == 20
        shown.on_block_end(at(35))
        assert shown.bar.n == 35
        shown.on_evaluate(at(35), METRICS)
        shown.on_log(at(35), {"kl": 2.0})
        assert shown.bar.postfix == "kl 2  accuracy 0.5"
    assert "step 35/100  test: -ELBO 101.2  accuracy 0.5\n" in capsys.readouterr().out


def test_a_quiet_training_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, quiet=True) as shown:
        shown.say("a line")
        shown.on_evaluate(at(20), METRICS)
    assert capsys.readouterr() == ("", "")


def test_a_table_has_a_column_for_each_error() -> None:
    metrics = {"negative_elbo": {"value": 101.25, "se": 0.5, "mc_se": 0.125}, "usage": {"value": 0.75}}
    assert table(metrics).splitlines() == [
        "test set              value     s.e.  m.c.s.e.",
        "negative_elbo      101.2500   0.5000    0.1250",
        "usage                0.7500",
    ]


def test_only_the_second_signal_has_its_usual_effect() -> None:
    usual: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: usual.append(number))
    try:
        with StopSignals() as stop:
            assert not stop
            signal.raise_signal(signal.SIGTERM)
            assert stop and not usual
            signal.raise_signal(signal.SIGTERM)
            assert usual == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert usual == 2 * [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
