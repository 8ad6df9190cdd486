"""Functions of a model captured as graphs of tensor operations, compiled, and kept in a cache."""
