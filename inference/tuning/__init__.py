"""Sweeps: the settings that they vary, their runs, and Ray Tune, which starts the runs."""
