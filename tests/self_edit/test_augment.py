"""Training sets and prediction views: fixed by a seed, without repeats, true to the task."""

import hashlib
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.errors import InvalidSelfEdit
from arc_seal.self_edit.augment import NamedView, augment, views
from arc_seal.self_edit.edit import SelfEdit, ToolCall, canonical
from arc_seal.self_edit.toolbox import Toolbox
from tests.self_edit.builders import TOOLBOX, calls, edit, random_grid, random_task, tasks, write_tool

GOLDEN = "dc86460728e5188287e9108c9f7960a018201ffe82828e06185f0db3e99e1833"
"""SHA-256 of the data below. A change means that no earlier run can be repeated: change it on purpose only."""

RICH = edit(
    ToolCall.of("rotate", quarter_turns="any"),
    ToolCall.of("flip", direction="any"),
    ToolCall.of("translate", max_shift=3),
    ToolCall.of("drop_demos", keep="any"),
    ToolCall.of(
        "chain",
        steps=[
            {"tool": "permute_colors", "keep_background": True},
            {"tool": "reflect", "side": "any"},
            {"tool": "shuffle_demos"},
        ],
    ),
    ToolCall.of("tile", along="any"),
    max_examples=64,
)
any_edit = st.lists(st.sampled_from(TOOLBOX.tools).flatmap(lambda tool: calls(tool.name)), max_size=4).map(
    lambda tools: edit(*tools)
)


def fingerprint(seed: int) -> str:
    task = random_task(7, demos=4, queries=2)
    made = Augmented(*augment(task, RICH, TOOLBOX, Random(seed)))
    seen = views(task, RICH, TOOLBOX, Random(seed), 8)
    data = [
        [[[demo.input.rows, demo.output.rows] for demo in example] for example in made.examples],
        made.skipped,
        [[view.name, [demo.input.rows for demo in view.task.demos], view.task.queries[0].rows] for view in seen],
    ]
    return hashlib.sha256(canonical(data).encode()).hexdigest()


class Augmented(NamedTuple):
    """What `augment` returns."""

    examples: tuple[tuple[Demonstration, ...], ...]
    skipped: int


def made(task: Task, self_edit: SelfEdit, seed: int = 0) -> Augmented:
    return Augmented(*augment(task, self_edit, TOOLBOX, Random(seed)))


def seen(task: Task, self_edit: SelfEdit | None, count: int, seed: int = 0) -> tuple[NamedView, ...]:
    return views(task, self_edit, TOOLBOX, Random(seed), count)


def test_seed_fixes_the_data_byte_for_byte() -> None:
    assert fingerprint(0) == GOLDEN
    assert fingerprint(1) != GOLDEN


@pytest.mark.parametrize("salt", ["1", "2"])
def test_data_does_not_hang_on_hash_order(salt: str) -> None:
    code = "from tests.self_edit.test_augment import fingerprint; print(fingerprint(0))"
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"PYTHONHASHSEED": salt}, capture_output=True, text=True
    )
    assert run.stdout.strip() == GOLDEN, run.stderr


def test_without_tools_each_demonstration_comes_last_once() -> None:
    first, second, third = demos = random_task(1).demos
    task = random_task(1)
    assert made(task, edit()) == Augmented(((second, third, first), (third, first, second), demos), 0)


def test_sources_take_turns() -> None:
    task = random_task(1)
    examples = made(task, edit(ToolCall.of("transpose"))).examples
    transposed = TOOLBOX.bind(ToolCall.of("transpose"))(task, Random(0)).task.demos
    assert len(examples) == 6
    assert [example[-1] for example in examples] == [
        demo for pair in zip(task.demos, transposed, strict=True) for demo in pair
    ]


def test_random_tools_fill_the_set() -> None:
    for limit in (1, 7, 16):
        examples = made(random_task(1), edit(ToolCall.of("permute_colors"), max_examples=limit)).examples
        assert len(examples) == limit


def test_tool_that_can_never_work_is_tried_once() -> None:
    task = random_task(1, sides=(20,))
    result = made(task, edit(ToolCall.of("enlarge", sides="both"), ToolCall.of("transpose")))
    assert (len(result.examples), result.skipped) == (6, 1)


def test_tool_that_sometimes_works_is_tried_again() -> None:
    grid = random_task(1, sides=(10,)).queries[0]
    wide = Grid(10, 20, grid.cells * 2)
    task = Task("wide", (Demonstration(wide, wide), Demonstration(grid, wide)), (wide,))
    result = made(task, edit(ToolCall.of("tile", along="any")))
    assert result.skipped > 1
    assert any(example[0].input.height == 20 for example in result.examples)


@pytest.mark.parametrize("name", [tool.name for tool in TOOLBOX.tools if tool.name != "chain"])
def test_a_large_query_takes_no_tool_away(name: str) -> None:
    small = random_task(1, sides=(5,))
    large = Task(small.id, small.demos, (random_grid(Random(0), 16, 16),))
    result = made(large, edit(ToolCall.of(name)))
    assert result.skipped == 0
    assert result == made(small, edit(ToolCall.of(name)))


@given(task=tasks(sides=(1, 2, 3, 16)), self_edit=any_edit, seed=st.integers(0, 2**32))
def test_examples_are_distinct_and_large_enough(task: Task, self_edit: SelfEdit, seed: int) -> None:
    result = made(task, self_edit, seed)
    assert 1 <= len(result.examples) <= self_edit.training.max_examples
    assert len(dict.fromkeys(result.examples)) == len(result.examples)
    assert all(min(2, len(task.demos)) <= len(example) <= len(task.demos) for example in result.examples)
    assert result == made(task, self_edit, seed)


def test_one_demonstration_gives_examples_of_one() -> None:
    task = random_task(1, demos=1)
    assert made(task, edit()).examples == (task.demos,)
    assert {len(example) for example in made(task, RICH).examples} == {1}


@given(task=tasks(sides=(1, 2, 3, 16)), self_edit=any_edit, seed=st.integers(0, 2**32), count=st.integers(1, 8))
def test_views_are_distinct_and_lead_back(task: Task, self_edit: SelfEdit, seed: int, count: int) -> None:
    found = seen(task, self_edit, count, seed)
    assert 1 <= len(found) <= count
    assert found[0].name == "as given"
    assert found[0].task == task
    assert len({view.task for view in found}) == len(found)
    for named in found:
        assert tuple(map(named.invert, named.task.queries)) == task.queries
        images = tuple(map(named.show, task.queries))
        assert all(image in (None, query) for image, query in zip(images, named.task.queries, strict=True))
        pairs = [(query, shown) for query, shown in zip(task.queries, named.task.queries, strict=True)]
        assert all(shown.height * shown.width <= query.height * query.width for query, shown in pairs)


@given(task=tasks(sides=(2, 3)), seed=st.integers(0, 2**32))
def test_views_show_further_grids_as_they_do_the_queries(task: Task, seed: int) -> None:
    turned = edit(ToolCall.of("chain", steps=[{"tool": "rotate"}, {"tool": "flip"}, {"tool": "permute_colors"}]))
    further = random_grid(Random(seed), 3, 2)
    for named in seen(task, turned, 6, seed):
        image = named.show(further)
        assert image is not None
        assert named.invert(image) == further
        assert tuple(map(named.show, task.queries)) == named.task.queries


def test_views_take_the_tools_in_turn_and_say_the_order() -> None:
    task = random_task(1)
    turn, mirror = ToolCall.of("rotate", quarter_turns=2), ToolCall.of("flip", direction="up_down")
    found = seen(task, edit(turn, ToolCall.of("enlarge"), mirror), 5)
    assert [view.name.partition(", order ")[0] for view in found] == [
        "as given",
        *map(str, (turn, mirror, turn, mirror)),
    ]
    plain = TOOLBOX.bind(turn)(task, Random(0)).task
    order = [int(digit) - 1 for digit in found[1].name.partition(", order ")[2]]
    assert found[1].task == plain.with_demos(tuple(plain.demos[index] for index in order))


@pytest.mark.parametrize("self_edit", [None, edit(), edit(ToolCall.of("enlarge", sides="both"))])
def test_views_without_a_usable_tool_differ_in_order_only(self_edit: SelfEdit | None) -> None:
    task = random_task(1)
    found = seen(task, self_edit, 8)
    assert len(found) == 6  # orders of three demonstrations
    assert {view.task.queries for view in found} == {task.queries}
    assert all(sorted(view.task.demos, key=str) == sorted(task.demos, key=str) for view in found)
    assert len(seen(random_task(1, demos=1), self_edit, 8)) == 1


def test_orders_of_many_demonstrations_can_be_read() -> None:
    name = seen(random_task(1, demos=11), None, 2)[1].name
    assert sorted(map(int, name.removeprefix("order ").split("-"))) == list(range(1, 12))


def test_tool_without_a_way_back_makes_examples_but_no_views(tmp_path: Path) -> None:
    write_tool(
        tmp_path,
        "blank",
        "from arc_seal.self_edit.toolbox import View\n"
        "def blank(task, rng):\n    '''Empty the grids.'''\n"
        "    return View(task.map_grids(lambda grid: grid.mapped(lambda cells: cells * 0)), None)\n",
    )
    toolbox, task, self_edit = Toolbox.load([tmp_path]), random_task(1), edit(ToolCall.of("blank"))
    assert len(augment(task, self_edit, toolbox, Random(0))[0]) > 3
    assert not any("blank" in view.name for view in views(task, self_edit, toolbox, Random(0), 8))


def test_unknown_tool_is_an_invalid_self_edit() -> None:
    for make in (
        lambda: made(random_task(1), edit(ToolCall.of("spin"))),
        lambda: seen(random_task(1), edit(ToolCall.of("spin")), 2),
    ):
        with pytest.raises(InvalidSelfEdit, match="found spin"):
            make()
