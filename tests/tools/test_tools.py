"""What every tool in the folder promises, and what each promises besides."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.errors import GridError
from arc_seal.self_edit.edit import ToolCall
from arc_seal.self_edit.toolbox import View
from tests.self_edit.builders import TOOLBOX, calls, random_task, tasks

every_tool = pytest.mark.parametrize("name", [tool.name for tool in TOOLBOX.tools])
seeds = st.integers(0, 2**32)


def shown(task: Task, call: ToolCall, seed: int) -> View:
    return TOOLBOX.bind(call)(task, Random(seed))


def grid(*rows: str) -> Grid:
    return Grid.from_rows([[int(cell) for cell in row] for row in rows])


def one(start: Grid) -> Task:
    """A task that shows one grid everywhere."""
    return Task("one", (Demonstration(start, start),), (start,))


@every_tool
@given(data=st.data(), task=tasks(), seed=seeds)
def test_inverse_gives_back_every_pair_and_query(name: str, data: st.DataObject, task: Task, seed: int) -> None:
    try:
        view = shown(task, data.draw(calls(name)), seed)
    except GridError:
        return  # too large for this tool; that small grids never are is tested below
    invert = view.invert
    if invert is None:
        return
    assert all(Demonstration(invert(demo.input), invert(demo.output)) in task.demos for demo in view.task.demos)
    assert tuple(map(invert, view.task.queries)) == task.queries


@every_tool
@given(data=st.data(), task=tasks(sides=(1, 2, 3)), seed=seeds)
def test_result_is_a_task_of_the_same_name_and_queries(name: str, data: st.DataObject, task: Task, seed: int) -> None:
    view = shown(task, data.draw(calls(name)), seed)  # grids this small outgrow nothing
    assert view.task.id == task.id
    assert len(view.task.queries) == len(task.queries)
    assert min(2, len(task.demos)) <= len(view.task.demos) <= len(task.demos)


@every_tool
@given(data=st.data(), task=tasks(), seed=seeds)
def test_seed_fixes_the_result(name: str, data: st.DataObject, task: Task, seed: int) -> None:
    call = data.draw(calls(name))
    try:
        first = shown(task, call, seed)
    except GridError:
        with pytest.raises(GridError):
            shown(task, call, seed)
        return
    assert shown(task, call, seed).task == first.task


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (ToolCall.of("rotate", quarter_turns=1), grid("41", "52", "63")),
        (ToolCall.of("rotate", quarter_turns=2), grid("654", "321")),
        (ToolCall.of("rotate", quarter_turns=3), grid("36", "25", "14")),
        (ToolCall.of("flip", direction="left_right"), grid("321", "654")),
        (ToolCall.of("flip", direction="up_down"), grid("456", "123")),
        (ToolCall.of("transpose"), grid("14", "25", "36")),
        (ToolCall.of("enlarge", sides="height"), grid("123", "123", "456", "456")),
        (ToolCall.of("enlarge", sides="width"), grid("112233", "445566")),
        (ToolCall.of("enlarge"), grid("112233", "112233", "445566", "445566")),
        (ToolCall.of("reflect", side="above"), grid("456", "123", "123", "456")),
        (ToolCall.of("reflect", side="below"), grid("123", "456", "456", "123")),
        (ToolCall.of("reflect", side="left"), grid("321123", "654456")),
        (ToolCall.of("reflect", side="right"), grid("123321", "456654")),
        (ToolCall.of("tile", along="rows"), grid("123", "456", "123", "456")),
        (ToolCall.of("tile", along="columns"), grid("123123", "456456")),
        (ToolCall.of("tile", along="both"), grid("123123", "456456", "123123", "456456")),
        (
            ToolCall.of("chain", steps=[{"tool": "rotate", "quarter_turns": 1}, {"tool": "transpose"}]),
            grid("456", "123"),
        ),
    ],
    ids=str,
)
def test_acts_as_its_name_says(call: ToolCall, expected: Grid) -> None:
    view = shown(one(grid("123", "456")), call, 0)
    assert view.task == one(expected)


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        (ToolCall.of("enlarge", sides="both"), grid("12", "11")),
        (ToolCall.of("enlarge", sides="both"), grid("111", "111")),
        (ToolCall.of("enlarge", sides="height"), grid("1")),
        (ToolCall.of("reflect", side="right"), grid("12")),
        (ToolCall.of("reflect", side="right"), grid("111")),
        (ToolCall.of("reflect", side="left"), grid("1")),
        (ToolCall.of("tile", along="rows"), grid("1", "2")),
        (ToolCall.of("tile", along="rows"), grid("1", "1", "1")),
        (ToolCall.of("tile", along="both"), grid("1")),
    ],
    ids=str,
)
def test_inverse_refuses_what_the_tool_never_makes(call: ToolCall, wrong: Grid) -> None:
    invert = shown(one(grid("12", "34")), call, 0).invert
    assert invert is not None
    with pytest.raises(GridError):
        invert(wrong)


@pytest.mark.parametrize("tool", ["enlarge", "reflect", "tile"])
def test_result_beyond_thirty_is_refused(tool: str) -> None:
    with pytest.raises(GridError, match="30x30"):
        shown(random_task(1, sides=(16,)), ToolCall.of(tool), 0)


@pytest.mark.parametrize(
    ("tool", "variants"),
    [("rotate", 4), ("flip", 3), ("reflect", 4), ("tile", 3), ("shuffle_demos", 6), ("drop_demos", 3)],
)
def test_any_stands_for_the_whole_family(tool: str, variants: int) -> None:
    task = random_task(1)
    assert len({shown(task, ToolCall.of(tool), seed).task for seed in range(100)}) == variants


def test_background_is_kept_unless_told_otherwise() -> None:
    start = one(grid("0123456789"))
    kept = [shown(start, ToolCall.of("permute_colors"), seed).task.queries[0].cells for seed in range(50)]
    free = [
        shown(start, ToolCall.of("permute_colors", keep_background=False), seed).task.queries[0].cells
        for seed in range(50)
    ]
    assert {cells[0] for cells in kept} == {0}
    assert len({cells[0] for cells in free}) > 5
    assert all(sorted(cells) == list(range(10)) for cells in kept + free)


@given(seed=seeds, max_shift=st.integers(1, 8))
def test_translate_moves_all_grids_alike(seed: int, max_shift: int) -> None:
    marked = Grid(20, 20, bytes([1] + [0] * 399))
    moved = shown(one(marked), ToolCall.of("translate", max_shift=max_shift), seed).task
    assert moved.demos[0].input == moved.demos[0].output == moved.queries[0]
    row, column = divmod(moved.queries[0].cells.index(1), 20)
    assert min(row, 20 - row) <= max_shift
    assert min(column, 20 - column) <= max_shift


@given(seed=seeds, demos=st.integers(1, 6), keep=st.sampled_from(["any", 2, 3, 4]))
def test_drop_demos_keeps_order_and_two(seed: int, demos: int, keep: str | int) -> None:
    task = random_task(1, demos)
    left = shown(task, ToolCall.of("drop_demos", keep=keep), seed).task.demos
    assert [demo for demo in task.demos if demo in left] == list(left)
    if keep == "any":
        assert min(demos, 2) <= len(left) <= max(demos - 1, min(demos, 2))
    else:
        assert len(left) == min(demos, int(keep))


def test_chain_has_no_way_back_where_a_step_has_none() -> None:
    chain = next(tool.function for tool in TOOLBOX.tools if tool.name == "chain")
    turn = TOOLBOX.bind(ToolCall.of("rotate", quarter_turns=1))
    view = chain(random_task(1), Random(0), steps=[turn, lambda task, rng: View(task, None)])
    assert view.invert is None
