"""Timings beside other implementations, and the page that their tables are written into."""

from pathlib import Path

COST = Path(__file__).parent.parent / "docs" / "cost.md"
