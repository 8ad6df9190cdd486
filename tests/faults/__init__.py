"""What a run survives: each file tries one kind of fault, many times over. See `python -m tests.faults`."""
