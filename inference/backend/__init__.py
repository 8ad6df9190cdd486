"""Device, processes, files and memory."""
