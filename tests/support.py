"""Small runs, and what they leave behind."""

import json
from pathlib import Path

import torch

TINY = ["--steps", "40", "--batch-size", "20", "--hidden", "16", "--z-dim", "2"]


SSVAE = ["--model", "ssvae", *TINY, "--labels", "6"]


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(run: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines(run)]


def same(a: object, b: object) -> bool:
    """Whether two checkpoints hold the same, bit for bit; all but the clock."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "seconds")
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b


def checkpoint(run: Path) -> dict:
    return torch.load(run / "checkpoint.pt", weights_only=True)
