"""Small mistakes in the code, one at a time, and whether a test notices: `python -m tools.mutants`."""
