"""Run folders: configuration, files, locks and restoring."""
