"""Tools that make the tables of this repository."""
