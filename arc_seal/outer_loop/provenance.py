"""What a run is recorded with, so that it can be told from others: versions, commit, weights, the policy, the time."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from arc_seal import __version__
from arc_seal.errors import InputError
from arc_seal.models.weights import PACKAGE, fingerprint, local_path
from arc_seal.settings import shortened

_PACKAGE = Path(__file__).resolve().parents[1]

LIBRARIES = ("torch", "transformers", "peft", "numpy", "llguidance")
"""Libraries whose versions can change a result."""


def versions() -> dict[str, str]:
    """Versions of arc-seal, Python and the libraries that can change a result."""
    found = {"arc-seal": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def git_commit(package: Path = _PACKAGE) -> str | None:
    """The commit of the checkout that the package is at the top of, `+changes` behind it when tracked files differ.

    None when arc-seal is installed, or git is missing or has nothing to say.
    """
    checkout = package.parent
    if not (checkout / ".git").exists():  # an environment's packages often lie somewhere in another project's checkout
        return None
    command = ["git", f"--git-dir={checkout / '.git'}", f"--work-tree={checkout}", "describe"]
    command += ["--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def recorded_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's settings as they are recorded: with what tells its weights from others at the same place."""
    location = model.get("location")
    return {**model, "weights": fingerprint(location)} if isinstance(location, str) else dict(model)


def policy_location(policy: str | None) -> str | None:
    """Where a policy is, for workers elsewhere too: a place in a package as it is, a folder with its whole path."""
    if policy is None or policy.startswith(PACKAGE):
        return policy
    return str(Path(policy).expanduser().absolute())


def check_policy(location: str, model: Mapping[str, Any]) -> None:
    """Refuse what is no kept policy, or one of other weights than the model's, before a model is loaded."""
    folder = local_path(location)
    names = ("adapter_config.json", "adapter_model.safetensors")
    missing = next((name for name in names if not (folder / name).is_file()), None)
    if missing is not None:
        raise InputError(str(folder), "", "a folder with an adapter of peft's", f"no {missing} in it")
    try:
        revision = json.loads((folder / names[0]).read_text("utf-8"))["revision"]
    except (OSError, ValueError, TypeError, LookupError):
        return  # whoever reads it says what is wrong with it
    weights = recorded_model(model).get("weights")
    if revision and weights and revision != weights:
        expected = f"{weights}, the weights that {model.get('name')} has now (self_edit=fixed needs no policy)"
        raise InputError(str(folder / names[0]), "revision", expected, shortened(revision))


@cache
def provenance() -> dict[str, Any]:
    """What every roll-out is recorded with; it does not change while a process lives."""
    return {"versions": versions(), "git_commit": git_commit()}
