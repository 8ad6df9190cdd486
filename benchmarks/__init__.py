"""Benchmarks against other implementations. `--write` updates the tables in docs/cost.md."""

from pathlib import Path

COST = Path(__file__).parent.parent / "docs" / "cost.md"
