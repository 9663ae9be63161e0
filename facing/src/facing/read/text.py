"""Read the text of a file, in the encoding that it declares."""

import io
import re
import tokenize
from pathlib import Path

from facing.problem import Problem


def read_text(path: Path) -> str:
    """Return a file's text with `\\n` at the end of each line.

    Raises `Problem` if the file cannot be read or decoded.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise Problem(path, 1, f"cannot be read: {reason}") from None
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except SyntaxError as error:
        raise Problem(path, 1, f"unknown encoding: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise _undecodable(path, data, error) from None
    # Python ends a line at these three and at nothing else; splitlines()
    # would also break at a form feed, and every number after it be wrong.
    return re.sub(r"\r\n?", "\n", text)


def _undecodable(path: Path, data: bytes, error: UnicodeDecodeError) -> Problem:
    bad = f"byte 0x{data[error.start]:02x} at offset {error.start}"
    return Problem(
        path,
        1 + data.count(b"\n", 0, error.start),
        f"{bad} is not {error.encoding}; save the file as UTF-8, or "
        "declare its encoding in the first line",
    )
