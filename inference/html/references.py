"""Published results that tables and reports show next to results of this project, from references.json.

Each entry has the table and the system that it belongs to (model, settings that differ from the defaults,
data set), a text, and its source if known.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, NamedTuple


class Reference(NamedTuple):
    """A published result."""

    table: str  # title of the table in `results.TABLES`
    model: str
    settings: Mapping[str, Any]
    data: str
    text: str  # as shown
    source: str = ""  # paper, course or program


REFERENCES = [
    Reference(**entry)
    for entry in json.loads((files("inference") / "html" / "references.json").read_text("utf-8"))
]


def find_reference(table: str, model: str, settings: Mapping[str, Any], data: str) -> str:
    """Returns the text of the reference for a system in a table, or an empty string."""
    found = (entry.text for entry in REFERENCES if entry[:4] == (table, model, settings, data))
    return next(found, "")
