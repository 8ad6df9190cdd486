"""Training: the loop, its steps, schedules and callbacks."""
