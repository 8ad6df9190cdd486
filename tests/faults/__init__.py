"""Fault tests of runs: each module tries one kind of fault many times. See `python -m tests.faults`."""
