"""Data sets: loading, conversion, and what models observe of them."""

from inference.data.dataset import Dataset
from inference.data.load import load_dataset

__all__ = ["Dataset", "load_dataset"]
