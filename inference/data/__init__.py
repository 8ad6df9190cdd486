"""Data sets: loading, conversion, and what models observe of them."""

from inference.data.dataset import Dataset
from inference.data.load import load_dataset
from inference.data.observations import DataKind, ObservationKind, register_observation

__all__ = ["DataKind", "Dataset", "ObservationKind", "load_dataset", "register_observation"]
