"""A file dropped into a folder is a tool; a malformed one is said to be so, by name."""

import json
from pathlib import Path
from random import Random

import pytest

from arc_seal.errors import InputError, InvalidSelfEdit
from arc_seal.files import tools_dir
from arc_seal.self_edit.edit import ToolCall, plain_schema
from arc_seal.self_edit.schema import Bounds, SelfEditSchema
from arc_seal.self_edit.toolbox import Toolbox
from tests.self_edit.builders import TOOLBOX, ByteGrammar, edit, random_task, write_tool

HEAD = """
from random import Random
from typing import Annotated, Literal
from pydantic import Field
from arc_seal.arc.task import Task
from arc_seal.self_edit.toolbox import Step
from arc_seal.self_edit.toolbox import View, unchanged
"""

REVERSE = f'''{HEAD}
def reverse(
    task: Task, rng: Random, *, times: Annotated[int, Field(ge=1, le=3)] = 1, copy: bool = False,
    json: Literal["loud"] = "loud", share: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> View:
    """Turn the order of demonstrations round.

    More about it.
    """
    return View(task.with_demos(task.demos[::-1]) if times % 2 else task, unchanged)
'''


def tool(parameters: str, body: str = "return View(task, unchanged)", doc: str = '"""Do it."""') -> str:
    return f"{HEAD}\ndef wrong({parameters}) -> View:\n    {doc}\n    {body}\n"


def test_toolbox_holds_the_shipped_tools() -> None:
    assert [tool.name for tool in TOOLBOX.tools] == [
        "chain", "drop_demos", "enlarge", "flip", "permute_colors", "reflect", "rotate", "shuffle_demos", "tile",
        "translate", "transpose",
    ]  # fmt: skip


def test_menu_line_comes_from_the_signature() -> None:
    lines = [tool.menu_line for tool in TOOLBOX.tools]
    assert len(lines) == len(TOOLBOX.tools)
    assert "rotate(quarter_turns: any|1|2|3): Rotate every grid clockwise by quarter turns." in lines
    assert "transpose(): Swap rows and columns of every grid." in lines
    assert max(map(len, lines)) < 120


def test_dropped_in_tool_is_told_of_and_can_be_called(tmp_path: Path) -> None:
    write_tool(tmp_path / "more", "reverse", REVERSE)
    write_tool(tmp_path / "more", "_helper", "this is no tool")
    toolbox = Toolbox.load([tools_dir(), tmp_path / "more"])
    line = (
        "reverse(copy: true|false, json: loud, share: 0 to 1, times: 1 to 3): Turn the order of demonstrations round."
    )
    schema = SelfEditSchema(toolbox, Bounds())
    assert line in [tool.menu_line for tool in toolbox.tools]
    assert line in schema.menu()

    text = (
        '{"tools":[{"tool":"reverse","copy":true,"json":"loud","share":0.25,"times":3},'
        '{"tool":"chain","steps":[{"tool":"transpose"},{"tool":"reverse","copy":false,"json":"loud","share":1.0,"times":1}]}],'
        '"training":{"loss_on":"all","learning_rate":0.0001,"epochs":1,"batch_size":1,"lora_rank":8,"max_examples":16}}'
    )
    edit = schema.parse(text)
    assert schema.canonical(edit) == text
    assert ByteGrammar(schema.json_schema()).accepts(text)

    task = random_task(0)
    assert toolbox.bind(edit.tools[0])(task, Random(0)).task.demos == task.demos[::-1]
    turned = toolbox.bind(edit.tools[1])(task, Random(0))
    assert turned.task.demos[-1].input == task.demos[0].input.mapped(lambda cells: cells.T)


def test_folder_without_other_tools_is_enough(tmp_path: Path) -> None:
    write_tool(tmp_path, "reverse", REVERSE)
    toolbox = Toolbox.load([tmp_path])
    schema = SelfEditSchema(toolbox, Bounds())
    training = {
        "loss_on": "all",
        "learning_rate": 0.0001,
        "epochs": 1,
        "batch_size": 1,
        "lora_rank": 8,
        "max_examples": 16,
    }
    assert schema.parse({"tools": [{"tool": "reverse"}], "training": training}).tools == (
        ToolCall.of("reverse", times=1, copy=False, json="loud", share=0.5),
    )
    with pytest.raises(InvalidSelfEdit, match=r"^tools\[0\]\.times: expected less than or equal to 3, found 4$"):
        schema.parse({"tools": [{"tool": "reverse", "times": 4}], "training": training})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "expected a function wrong, found none"),
        ("wrong = 7", "expected a function wrong, found int"),
        ("def wrong(:", "line 1: expected Python, found invalid syntax"),
        ("import nowhere_to_be_found", "expected a file that can be imported, found ModuleNotFoundError"),
        (tool("task: Task, rng: Random", doc="x = 1"), "wrong: expected a docstring"),
        (tool("task: Task"), "wrong: expected task and rng as the first parameters"),
        (tool("rng: Random, task: Task"), "wrong: expected task and rng as the first parameters"),
        (tool("task: Task, rng: Random, *, size=2"), "wrong, parameter size: expected an annotation"),
        (tool("task: Task, rng: Random, size: int"), "wrong, parameter size: expected a keyword-only parameter"),
        (tool("task: Task, rng: Random, **more: int"), "wrong, parameter more: expected a keyword-only parameter"),
        (tool("task: Task, rng: Random, *, tool: int"), "wrong, parameter tool: expected a name other than"),
        (tool("task: Task, rng: Random, *, arguments: int"), "wrong, parameter arguments: expected a name other than"),
        (tool("task: Task, rng: Random, *, size: dict[str, int]"), "wrong, parameter size: expected choices, numbers"),
        (tool("task: Task, rng: Random, *, size: Random"), "wrong, parameter size: expected an annotation with a JSON"),
        (tool("task: Task, rng: Random, *, size: 'Nothing'"), "wrong: expected annotations that can be resolved"),
        (
            tool("task: Task, rng: Random, *, size: Annotated[int, Field(ge=2)] = 1"),
            "wrong, parameter size: expected a default that is greater than or equal to 2, found 1",
        ),
        (tool("task: Task, rng: Random, *, steps: list[Step]"), "wrong: expected other tools to take as steps"),
    ],
)
def test_malformed_file_is_named(tmp_path: Path, source: str, message: str) -> None:
    file = write_tool(tmp_path, "wrong", source)
    with pytest.raises(InputError) as caught:
        Toolbox.load([tmp_path])
    assert str(caught.value).startswith(f"{file}: {message}")
    assert "\n" not in str(caught.value)


def test_name_clash_names_both_files(tmp_path: Path) -> None:
    files = [write_tool(tmp_path / folder, "reverse", REVERSE) for folder in ("one", "two")]
    with pytest.raises(InputError) as caught:
        Toolbox.load([tmp_path / "one", tmp_path / "two"])
    assert str(caught.value) == f"{files[1]}: expected a name that no other tool has, found that of {files[0]}"


def test_one_folder_named_twice_is_one_folder() -> None:
    assert Toolbox.load([tools_dir(), str(tools_dir())]) is TOOLBOX


@pytest.mark.parametrize(("name", "found"), [("missing", "nothing there"), ("file.py", "a file")])
def test_folder_that_is_none(tmp_path: Path, name: str, found: str) -> None:
    write_tool(tmp_path, "file", "")
    with pytest.raises(InputError, match=f"expected a folder of tools, found {found}$"):
        Toolbox.load([tmp_path / name])


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least one tool file, found none"):
        Toolbox.load([tmp_path])


def test_loading_again_is_free_until_a_file_comes(tmp_path: Path) -> None:
    write_tool(tmp_path, "reverse", REVERSE)
    first = Toolbox.load([tmp_path])
    assert Toolbox.load([str(tmp_path)]) is first
    write_tool(tmp_path, "another", REVERSE.replace("reverse", "another"))
    assert [tool.name for tool in Toolbox.load([tmp_path]).tools] == ["another", "reverse"]


def test_call_schema_is_plain() -> None:
    text = json.dumps(plain_schema(TOOLBOX.call))
    assert "$ref" not in text
    assert "$defs" not in text
    branches = plain_schema(TOOLBOX.call)["anyOf"]
    assert all(branch["required"] == list(branch["properties"]) for branch in branches)
    assert not any(branch["additionalProperties"] for branch in branches)


def test_step_is_any_tool_that_takes_none() -> None:
    chain = plain_schema(TOOLBOX.call)["anyOf"][0]["properties"]
    names = [branch["properties"]["tool"]["const"] for branch in chain["steps"]["items"]["anyOf"]]
    assert names == [tool.name for tool in TOOLBOX.tools if tool.name != "chain"]


def test_unknown_tool_cannot_be_bound() -> None:
    with pytest.raises(InvalidSelfEdit, match=r"tool: expected one of chain, .*, found spin"):
        TOOLBOX.bind(ToolCall.of("spin"))


def test_default_is_the_same_text_left_out_and_written(tmp_path: Path) -> None:
    write_tool(tmp_path, "wrong", tool("task: Task, rng: Random, *, share: Annotated[float, Field(ge=0)] = 1"))
    schema = SelfEditSchema(Toolbox.load([tmp_path]), Bounds())
    training = edit().training.model_dump()
    texts = {
        schema.canonical(schema.parse({"tools": [call], "training": training}))
        for call in ({"tool": "wrong"}, {"tool": "wrong", "share": 1}, {"tool": "wrong", "share": 1.0})
    }
    assert len(texts) == 1


def test_a_step_may_be_one_call_of_the_only_other_tool(tmp_path: Path) -> None:
    write_tool(tmp_path, "reverse", REVERSE)
    write_tool(tmp_path, "wrong", tool("task: Task, rng: Random, *, step: Step", body="return step(task, rng)"))
    toolbox = Toolbox.load([tmp_path])
    assert toolbox.tools[1].menu_line == "wrong(step: tool call): Do it."
    task, call = random_task(0), ToolCall.of("wrong", step={"tool": "reverse"})
    assert toolbox.bind(call)(task, Random(0)).task.demos == task.demos[::-1]
