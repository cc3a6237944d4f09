"""Which code and which weights a result was made by, and when."""

import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arc_seal.models.weights import fingerprint

_PACKAGE = Path(__file__).resolve().parents[1]

_TIMEOUT_S = 10.0


def git_commit(package: Path = _PACKAGE) -> str | None:
    """The commit of the checkout that arc-seal runs from, with `+changes` when its tracked files differ from it.

    Args:
        package: The package's folder; a checkout has it at its top.

    Returns:
        None when arc-seal is installed, or git is missing or has nothing to say.
    """
    checkout = package.parent
    if not (checkout / ".git").exists():  # an environment's packages often lie somewhere in another project's checkout
        return None
    command = ["git", f"--git-dir={checkout / '.git'}", f"--work-tree={checkout}", "describe"]
    command += ["--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            env={**clean, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def model_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's settings as they are recorded: with what tells its weights from others at the same place."""
    location = model.get("location")
    return {**model, "weights": fingerprint(location)} if isinstance(location, str) else dict(model)


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
