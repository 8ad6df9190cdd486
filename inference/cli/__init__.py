"""Parsing of command lines, and how a command starts and ends."""
