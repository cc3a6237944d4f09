"""Every line of "refuse bad input": one clear line that says file, place, expected, found."""

import codecs
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arc_seal.arc.datasets import load_task, load_tasks
from arc_seal.arc.task import read_json
from arc_seal.errors import InputError

PAIR = '{"input": [[1]], "output": [[2]]}'
TEST = '[{"input": [[3]]}]'


def with_cell(cell: str) -> str:
    """A task whose cell `train[0].input[2][1]` is `cell`."""
    pair = f'{{"input": [[0, 1], [2, 3], [4, {cell}]], "output": [[5]]}}'
    return f'{{"train": [{pair}], "test": {TEST}}}'


def with_grid(grid: str) -> str:
    """A task whose grid `train[0].input` is `grid`."""
    return f'{{"train": [{{"input": {grid}, "output": [[5]]}}], "test": {TEST}}}'


CELLS = {
    "boolean": ("true", "true"),
    "float": ("1.0", "1.0"),
    "string": ('"7"', '"7"'),
    "not a number": ("NaN", "NaN"),
    "infinite": ("1e999", "Infinity"),
    "null": ("null", "null"),
    "list": ("[3]", "a list of 1"),
    "object": ("{}", "an object"),
    "ten": ("10", "10"),
    "negative": ("-1", "-1"),
    "huge": ("1" * 19, "1" * 19),
    "too huge for int()": ("9" * 5000, "9" * 37 + "..."),
    "long string": (f'"{"x" * 100}"', '"' + "x" * 36 + "..."),
    "string with a line break": (r'"a\nb"', r'"a\nb"'),
}


@pytest.mark.parametrize(("cell", "found"), CELLS.values(), ids=CELLS)
def test_refuses_a_value_that_is_no_colour(tmp_path: Path, cell: str, found: str) -> None:
    place = "train[0].input[2][1]"
    assert_refused(tmp_path, with_cell(cell), f": {place}: expected an integer 0 to 9, found {found}")


FILES: dict[str, tuple[str, str]] = {
    "not JSON": ('{"train":\n [oops]}', ': line 2, column 3: expected JSON, found "oops]}" (expecting value)'),
    "cut off": ('{"train": [', ": line 1, column 12: expected JSON, found the end of the file (expecting value)"),
    "empty file": ("", ": line 1, column 1: expected JSON, found the end of the file (expecting value)"),
    "two values": ("{} {}", ': line 1, column 4: expected JSON, found "{}" (extra data)'),
    "nested too deeply": ("[" * 100_000, ": expected JSON, found brackets nested too deeply to be read"),
    "deep but closed": ("[" * 500 + "]" * 500, ": expected an object, found a list of 1"),
    "a list": ("[1]", ": expected an object, found a list of 1"),
    "null": ("null", ": expected an object, found null"),
    "a string": ('"train"', ': expected an object, found "train"'),
    "empty object": ("{}", ': expected an object with "train", found {}'),
    "no train": (f'{{"test": {TEST}}}', ': expected an object with "train", found only "test"'),
    "a key with a line break": (r'{"a\nb": 1}', r': expected an object with "train", found only "a\nb"'),
    "no test": (f'{{"train": [{PAIR}]}}', ': expected an object with "test", found only "train"'),
    "no demonstrations": (
        f'{{"train": [], "test": {TEST}}}',
        ": train: expected at least one pair, found an empty list",
    ),
    "no test inputs": (f'{{"train": [{PAIR}], "test": []}}', ": test: expected at least one pair, found an empty list"),
    "train an object": (f'{{"train": {{}}, "test": {TEST}}}', ": train: expected a list, found an object"),
    "test a number": (f'{{"train": [{PAIR}], "test": 3}}', ": test: expected a list, found 3"),
    "pair a list": (f'{{"train": [[[1]]], "test": {TEST}}}', ": train[0]: expected an object, found a list of 1"),
    "no output": (
        f'{{"train": [{PAIR}, {{"input": [[1]]}}], "test": {TEST}}}',
        ': train[1]: expected an object with "output", found only "input"',
    ),
    "no input": (
        f'{{"train": [{PAIR}], "test": [{{"output": [[1]]}}]}}',
        ': test[0]: expected an object with "input", found only "output"',
    ),
    "grid a string": (with_grid('"12"'), ': train[0].input: expected a list of rows, found "12"'),
    "grid an object": (with_grid("{}"), ": train[0].input: expected a list of rows, found an object"),
    "row a string": (with_grid('["12"]'), ': train[0].input[0]: expected a row, a list of integers, found "12"'),
    "row a number": (with_grid("[1, 2]"), ": train[0].input[0]: expected a row, a list of integers, found 1"),
    "later row a number": (
        with_grid("[[1], 2]"),
        ": train[0].input[1]: expected a row, a list of integers, found 2",
    ),
    "ragged": (
        with_grid("[[1, 2], [3, 4], [5]]"),
        ": train[0].input[2]: expected 2 cells, as in the first row, found 1",
    ),
    "no rows": (with_grid("[]"), ": train[0].input: expected 1 to 30 rows, found 0"),
    "no cells": (with_grid("[[], []]"), ": train[0].input[0]: expected 1 to 30 cells, found 0"),
    "31 rows": (with_grid(json.dumps([[0]] * 31)), ": train[0].input: expected 1 to 30 rows, found 31"),
    "31 cells": (with_grid(json.dumps([[0] * 31])), ": train[0].input[0]: expected 1 to 30 cells, found 31"),
    "some test outputs": (
        f'{{"train": [{PAIR}], "test": [{PAIR}, {{"input": [[1]]}}]}}',
        ": test: expected an output for each test input, or for none, found 1 of 2",
    ),
    "key twice": (
        f'{{"train": [{{"input": [[1]], "input": [[2]], "output": [[3]]}}], "test": {TEST}}}',
        ': train[0]: expected each key once, found "input" twice',
    ),
    "top key twice": (
        f'{{"train": [{PAIR}], "train": [{PAIR}], "test": {TEST}}}',
        ': expected each key once, found "train" twice',
    ),
    "key twice in what is not ARC's own": (
        f'{{"train": [{PAIR}], "test": {TEST}, "a\\nb": [{{"c": 1, "d": 2, "d": 2}}]}}',
        r': a\nb[0]: expected each key once, found "d" twice',
    ),
    "key twice in what another of the same key replaces": (
        f'{{"train": {{"a": 1, "a": 2}}, "train": [{PAIR}], "test": {TEST}}}',
        ': expected each key once, found "train" twice',
    ),
    "null for a demonstration's output": (
        f'{{"train": [{{"input": [[1]], "output": null}}], "test": {TEST}}}',
        ": train[0].output: expected a list of rows, found null",
    ),
    "null for some test outputs": (
        f'{{"train": [{PAIR}], "test": [{PAIR}, {{"input": [[1]], "output": null}}]}}',
        ": test: expected an output for each test input, or for none, found 1 of 2",
    ),
    "many keys": (
        json.dumps(dict.fromkeys(map(str, range(100)))),
        ': expected an object with "train", found only "0", "1", "2", "3", "4", "5", "6", ...',
    ),
    "id twice": (
        f'{{"aa": {{"train": [{PAIR}], "test": {TEST}}}, "aa": {{"train": [{PAIR}], "test": {TEST}}}}}',
        ': expected each key once, found "aa" twice',
    ),
    "id that leaves the folder": (
        f'{{"../aa": {{"train": [{PAIR}], "test": {TEST}}}}}',
        ": expected a task id of printable characters without slashes, found '../aa'",
    ),
    "broken task in a Kaggle file": (
        f'{{"aa": {{"train": [{PAIR}], "test": {TEST}}}, "bb": {{"train": 7, "test": {TEST}}}}}',
        ": bb.train: expected a list, found 7",
    ),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_refuses_a_file_that_is_no_task(tmp_path: Path, text: str, message: str) -> None:
    assert_refused(tmp_path, text, message)


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "behind a byte order mark"])
def test_refuses_a_file_that_is_not_utf_8(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "task.json"
    path.write_bytes(mark + b'{"train":\n"\xff"}')
    assert refusal(path) == f"{path}: line 2: expected UTF-8 text, found the byte 0xff"


def test_refuses_a_file_that_is_not_there_and_suggests_near_ones(tmp_path: Path) -> None:
    (tmp_path / "5582e5ca.json").write_text("{}")
    expected = "a JSON file, a folder, arcagi1/ID or arcagi2/ID (did you mean '5582e5ca.json'?)"
    path = tmp_path / "5582e5cb.json"
    assert refusal(path) == f"{path}: expected {expected}, found no file or folder of that name"


def test_refuses_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text("{}")
    path.chmod(0)
    with without_privileges(), pytest.raises(InputError) as refused:
        load_task(str(path))
    assert str(refused.value) == f"{path}: expected a file that can be read, found permission denied"


def test_refuses_a_folder_where_a_file_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a file that can be read, found is a directory"):
        read_json(tmp_path)


def test_refuses_a_pipe_and_a_device_without_reading_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "task.json")
    for path in (tmp_path / "task.json", Path("/dev/zero")):
        assert refusal(path) == f"{path}: expected a file that can be read, found a pipe or a device"


def test_refuses_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    with path.open("wb") as file:
        file.truncate(10**12)  # a hole: it takes no disk
    assert refusal(path) == f"{path}: expected a file of at most 64 MB, found a larger one"


def test_refuses_a_folder_without_tasks(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: expected a folder of tasks, ID.json each, found no .json file in it"


LINES = {
    "bad line": ("{}\n\n{oops}\n", ": line 3, column 2: expected JSON, found "),
    "cut off": ('{"id": 1}\n{"a"', ": line 2, column 5: expected JSON, found "),
    "bad task": (f'{{"id": "aa", "train": 3, "test": {TEST}}}', ": aa.train: expected a list, found 3"),
    "no tasks": ('{"loss": 1}\n{"loss": 2}', ': expected an object with "train", found only "x-1", "x-2"'),
    "id twice": (f'{{"id": 1, "test": {TEST}}}\n' * 2, ": expected each task id once, found one twice"),
    "nothing": ("", ': expected an object with "train", found {}'),
}


@pytest.mark.parametrize(("text", "message"), LINES.values(), ids=LINES)
def test_refuses_json_lines_that_are_no_tasks(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    assert refusal(path).startswith(f"{path}{message}")


FORMS = {
    "solutions": ('{"aa": [[[1]]]}', "a file of solutions"),
    "submission": ('{"aa": [{"attempt_1": [[0]], "attempt_2": [[0]]}]}', "a submission"),
    "official submission": ('[{"attempt_1": {"answer": [[0]]}}]', "a submission"),
}


@pytest.mark.parametrize(("text", "form"), FORMS.values(), ids=FORMS)
def test_refuses_a_competitions_other_files_and_names_the_right_ones(tmp_path: Path, text: str, form: str) -> None:
    path = tmp_path / "x_solutions.json"
    path.write_text(text)
    assert refusal(path) == f"{path}: expected a task or a file of tasks, found {form}"
    for name in ("x_challenges.json", "y_challenges.json"):
        (tmp_path / name).touch()
    names = "here 'x_challenges.json', 'y_challenges.json'"
    assert refusal(path) == f"{path}: expected a task or a file of tasks, {names}, found {form}"
    names = "or one of its files 'x_challenges.json', 'y_challenges.json'"
    assert refusal(tmp_path) == f"{tmp_path}: expected a folder of tasks, {names}, found a competition's files"


def test_refuses_a_list_of_one_pair(tmp_path: Path) -> None:
    assert_refused(tmp_path, f"[{PAIR}]", ": train: expected at least one pair, found an empty list")


def test_refuses_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0)
    with without_privileges(), pytest.raises(InputError, match=r"permission denied$"):
        load_tasks(str(folder))


@pytest.mark.parametrize(
    "spec", ["a\0b.json", "x" * 5000, "tasks/a\0/b"], ids=["null byte", "long", "null in a folder"]
)
def test_refuses_a_path_that_cannot_be(spec: str) -> None:
    with pytest.raises(InputError):
        load_task(spec)


NAMES = {
    "nothing": ("", "task: expected a JSON file, a folder, arcagi1/ID or arcagi2/ID, found nothing"),
    "id": ("arcagi1/0d3d703f", "arcagi1: expected a task id (did you mean '0d3d703e'?), found 0d3d703f"),
    "id of the other split": ("arcagi1/evaluation/0d3d703e", "arcagi1/evaluation: expected a task id"),
    "split": ("arcagi1/test/0d3d703e", "arcagi1/test/0d3d703e: expected arcagi1/ID or arcagi1/SPLIT/ID, found test"),
    "set": ("arcagi3", "arcagi3: expected a JSON file, a folder, arcagi1/ID or arcagi2/ID (did you mean 'arcagi"),
    "several": ("arcagi2/evaluation", "arcagi2/evaluation: expected one task, as arcagi2/evaluation/ID, found 120"),
}


@pytest.mark.parametrize(("spec", "message"), NAMES.values(), ids=NAMES)
def test_refuses_an_unknown_name(spec: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        load_task(spec)
    assert str(refused.value).startswith(message)


def test_refuses_an_id_that_comes_twice(tmp_path: Path) -> None:
    path = tmp_path / "0d3d703e.json"
    path.write_text(f'{{"train": [{PAIR}], "test": {TEST}}}')
    with pytest.raises(InputError) as refused:
        load_tasks("arcagi1/0d3d703e", str(path))
    assert str(refused.value) == f"{path}: expected the task id 0d3d703e once, found it in arcagi1/0d3d703e too"


SOLUTIONS = {
    "too many outputs": ('{"aa": [[[1]], [[2]]]}', ": aa: expected 1 grids, one for each test input, found 2"),
    "no outputs": ('{"aa": []}', ": aa: expected 1 grids, one for each test input, found 0"),
    "not a list": ('{"aa": 5}', ": aa: expected a list, found 5"),
    "a bad cell": ('{"aa": [[[10]]]}', ": aa[0][0][0]: expected an integer 0 to 9, found 10"),
    "a task without solution": ("{}", ": expected a solution of task aa, found none"),
    "another task's solution": ('{"aab": [[[1]]]}', ": expected a solution of task aa, found none"),
    "not JSON": ("oops", ': line 1, column 1: expected JSON, found "oops" (expecting value)'),
    "id twice": ('{"aa": [[[1]]], "aa": [[[1]]]}', ': expected each key once, found "aa" twice'),
}


@pytest.mark.parametrize(("text", "message"), SOLUTIONS.values(), ids=SOLUTIONS)
def test_refuses_a_solutions_file_that_does_not_fit(tmp_path: Path, text: str, message: str) -> None:
    challenges, solutions = tmp_path / "x_challenges.json", tmp_path / "x_solutions.json"
    challenges.write_text(f'{{"aa": {{"train": [{PAIR}], "test": {TEST}}}}}')
    solutions.write_text(text)
    message_found = refusal(challenges)
    assert message_found.startswith(str(solutions)) and message_found.endswith(message)


def test_refuses_solutions_that_contradict_the_task(tmp_path: Path) -> None:
    (tmp_path / "x_challenges.json").write_text(f'{{"aa": {{"train": [{PAIR}], "test": [{PAIR}]}}}}')
    (tmp_path / "x_solutions.json").write_text('{"aa": [[[3]]]}')
    assert refusal(tmp_path / "x_challenges.json").endswith("x_challenges.json has, found others")


def assert_refused(folder: Path, text: str, message: str) -> None:
    path = folder / "task.json"
    path.write_text(text)
    assert refusal(path) == f"{path}{message}"


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as refused:
        load_tasks(str(path))
    message = str(refused.value)
    assert "\n" not in message
    return message


@contextmanager
def without_privileges() -> Iterator[None]:
    """Be an ordinary user for a while: root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
