"""Text: one sequence per line of a .txt file."""

import unicodedata
from pathlib import Path

from inference.backend.files import check_memory, read_regular
from inference.data.dataset import Dataset
from inference.data.observations import SEQUENCES
from inference.data.split import train_and_test
from inference.data.vocabulary import SYMBOLS, UNITS, Vocabulary, split
from inference.errors import UserError, unknown

SUFFIX = ".txt"
MAX_LENGTH = {"words": 30, "characters": 100}  # places of a sequence, by default
MOST = 2**30  # bytes of a file
BYTES = 100  # of memory per byte of a file, at most


def load(
    path: Path,
    unit: str | None = None,
    max_length: int | None = None,
    vocabulary: Vocabulary | None = None,
) -> tuple[Dataset, str]:
    """Reads a text as a data set of sequences (n, length).

    Each line is a sequence. A tenth of the lines is the test set, see `split.train_and_test`. The vocabulary
    has the tokens that occur at least twice in the other lines. The places of a sequence are as many as the
    longest line needs with its `<end>`, at most `max_length`; longer lines are cut.

    Args:
        path: the file, in UTF-8.
        unit: "words" (default) or "characters".
        max_length: the largest number of places; by default `MAX_LENGTH`.
        vocabulary: that of a run, with its unit and length; by default a new one.

    Returns:
        The data set, and one line for the user.

    Raises:
        UserError: the file is not such a text. The message names file and line.
    """
    if unit not in (None, *UNITS):
        raise unknown("--tokens", str(unit), UNITS)
    unit = vocabulary.unit if vocabulary else unit or UNITS[0]
    lines = [split(line, unit) for line in _lines(path)]
    for number, line in enumerate(lines, 1):
        if not line:
            raise UserError(f"{path}: line {number} is empty. Remove it.")
    if len(lines) < 2:
        raise UserError(f"{path}: line 1 is the only line. Give at least two, to train and to test on.")
    train, test = train_and_test(len(lines), str(path))
    parts = [[lines[i] for i in part.tolist()] for part in (train, test)]
    longest = max(map(len, lines))
    if vocabulary is None:
        check_memory(len(lines) * min(longest + 1, max_length or MAX_LENGTH[unit]) * 12, str(path))
        length = min(longest + 1, max_length or MAX_LENGTH[unit])
        vocabulary = Vocabulary.of_lines(parts[0], unit, length)
        if len(vocabulary) == len(SYMBOLS):
            raise UserError(
                f"{path}: none of the {unit} in lines 1 to {len(lines)} occurs twice in the training lines. "
                "Give more lines, or --tokens characters."
            )
    x_train, x_test = (vocabulary.encode(part) for part in parts)
    cut = sum(len(line) >= vocabulary.length for line in lines)
    note = (
        f"{path}: {len(lines)} lines, {len(vocabulary)} different tokens ({unit}); a tenth is the test set, "
        f"{len(test)} of {len(lines)}"
    )
    if cut:
        note += (
            f"; {cut} lines of {vocabulary.length} {unit} or more are cut to the first {vocabulary.length}"
        )
    data = Dataset(str(path.resolve()), x_train, None, x_test, None, kind=SEQUENCES, vocabulary=vocabulary)
    return data, note


def _lines(path: Path) -> list[str]:
    """Returns the lines of a file. Raises UserError if it cannot be read or is not text in UTF-8."""
    try:
        check_memory(BYTES * path.stat().st_size, str(path))
        content = read_regular(path.resolve(), MOST).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}). Name a .txt file.") from None
    lines = []
    for number, line in enumerate(content.rstrip(b"\r\n").split(b"\n"), 1):
        try:
            text = line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: line {number} is not text in UTF-8 (byte {error.start + 1}). Save it in UTF-8."
            ) from None
        control = next((c for c in text if unicodedata.category(c) == "Cc" and c != "\t"), None)
        if control:
            raise UserError(f"{path}: line {number} has the control character {control!r}. Remove it.")
        lines.append(text)
    return lines
