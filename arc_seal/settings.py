"""Settings and other values from outside: what they have in common, and how a fault in them is worded."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

LONGEST_FOUND = 60
"""Characters of a wrong value that an error shows."""


class Settings(BaseModel):
    """Values within their bounds: what is not known is refused, and nothing changes afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def first_fault(error: ValidationError) -> tuple[str, str, str]:
    """The first fault that pydantic found: its place, what was expected there, and what was found."""
    fault = error.errors(include_url=False)[0]
    place = joined(fault["loc"])
    match fault["type"]:
        case "missing":
            return place, "a value", "nothing"
        case "too_short":
            return place, f"at least {fault['ctx']['min_length']} items", str(len(fault["input"]))
        case "too_long":
            return place, f"at most {fault['ctx']['max_length']} items", str(len(fault["input"]))
        case "extra_forbidden":
            return place, "a setting that there is", "an unknown one"
        case _:
            return place, fault["msg"].removeprefix("Input should be "), shortened(fault["input"])


def joined(location: Sequence[int | str]) -> str:
    """Names and indices as one path: `tools[1].quarter_turns`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).removeprefix(".")


def shortened(value: Any, length: int = LONGEST_FOUND) -> str:
    """A value on one line, as JSON where it can be, cut where it grows long."""
    try:
        line = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        line = repr(value)
    return line if len(line) <= length else f"{line[: length - 3]}..."
