"""JSON files: read so that every fault names its place, written whole or not at all."""

import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from arc_seal.errors import InputError
from arc_seal.whole_file import write_whole

_LONGEST_FOUND = 40
"""Characters of a wrong value that an error shows."""

_LONGEST_INTEGER = 18
"""Digits up to which an integer is kept as one; Python itself refuses to convert one of more than 4300."""


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON value, and where it stands.

    Attributes:
        source: The file it was read from.
        place: Where in it, such as `train[0].input[2][1]`; empty for the whole file.
        value: What `json` makes of it, but for objects that repeat a key.
    """

    source: str
    place: str
    value: Any

    def elements(self, expected: str = "a list") -> list["Node"]:
        """The elements of a list.

        Raises:
            InputError: When it is not a list; `expected` says what should have been here.
        """
        if type(self.value) is not list:
            raise self.fault(expected)
        return [Node(self.source, f"{self.place}[{index}]", value) for index, value in enumerate(self.value)]

    def members(self) -> dict[str, "Node"]:
        """The members of an object by key, in the file's order.

        Raises:
            InputError: When it is not an object, or has a key twice.
        """
        if isinstance(self.value, _RepeatingObject):
            raise self.fault("each key once", f"{describe(self.value.repeated)} twice")
        if type(self.value) is not dict:
            raise self.fault("an object")
        prefix = f"{self.place}." if self.place else ""
        return {key: Node(self.source, prefix + key, value) for key, value in self.value.items()}

    def member(self, key: str) -> "Node":
        """The member of an object with this key.

        Raises:
            InputError: When it is not an object, has a key twice or lacks this one.
        """
        members = self.members()
        if key not in members:
            found = f"only {_shortened(', '.join(map(describe, members)))}" if members else "{}"
            raise self.fault(f"an object with {describe(key)}", found)
        return members[key]

    def fault(self, expected: str, found: str | None = None) -> InputError:
        """The error that says what is wrong here; `found` describes the value itself unless given."""
        return InputError(self.source, self.place, expected, describe(self.value) if found is None else found)


def read_json(path: Path) -> Node:
    """Read a JSON file, UTF-8 with or without a byte order mark.

    Raises:
        InputError: When the file cannot be read, is not UTF-8 or is not JSON.
    """
    text = _read_text(path)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise InputError(str(path), f"line {error.lineno}, column {error.colno}", "JSON", _unreadable(error)) from None
    except RecursionError:
        raise InputError(str(path), "", "JSON", "brackets nested too deeply to be read") from None
    return Node(str(path), "", value)


def write_json(path: Path, text: str) -> None:
    """Put a JSON text into a file, whole or not at all: a reader sees the old file or the new one.

    Raises:
        InputError: When the file cannot be written.
    """
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise InputError(str(path), "", "a file that can be written", _reason(error)) from None


def describe(value: Any) -> str:
    """A JSON value in a few words, on one line, for an error message."""
    match value:
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case dict():
            return "an object"
        case Decimal():
            return _shortened(str(value))
        case _:
            return _shortened(json.dumps(value))


class _RepeatingObject(dict[str, Any]):
    """An object with a key that stands in it twice; harmless where nobody looks, a fault where somebody does."""

    repeated: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    seen: set[str] = set()
    faulty = _RepeatingObject(value)
    faulty.repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return faulty


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else Decimal(digits)


def _unreadable(error: json.JSONDecodeError) -> str:
    rest = error.doc[error.pos :]
    found = describe(rest.split("\n")[0]) if rest.strip() else "the end of the file"
    return f"{found} ({error.msg[0].lower()}{error.msg[1:].removesuffix(' at')})"


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise InputError(str(path), "", "a file that can be read", _reason(error)) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"the byte 0x{content[error.start]:02x}"
        raise InputError(str(path), f"line {line}", "UTF-8 text", found) from None


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_FOUND else text[: _LONGEST_FOUND - 3] + "..."
