"""The table as people read it."""

import os
from pathlib import Path

import pytest

from arc_seal.outer_loop.table import (
    HEADINGS,
    TableRow,
    cells,
    difference_text,
    make_table,
    run_lines,
    to_markdown,
)
from tests.outer_loop.table_builders import IN_CONTEXT, SEAL, evaluation, row

GOLDEN = Path(__file__).parent / "golden" / "table.md"


def test_markdown_is_as_it_was() -> None:
    """Set UPDATE_GOLDEN=1 to write the file anew, then read the difference."""
    text = to_markdown(evaluation())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text, "utf-8", newline="\n")
    assert text == GOLDEN.read_text("utf-8")


def test_markdown_keeps_names_in_their_cells() -> None:
    table = make_table([row("a|b\n<c>", 1.0, **{"x|y": (1,)})], {"model": "p|q"})
    lines = to_markdown(table).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == len(HEADINGS) + 2
    assert lines[2].startswith("| a\\|b &lt;c> | 1/1 |")
    assert lines[-1] == "| x\\|y | 1/1 |"
    assert "- model: p\\|q" in lines


def test_a_task_that_a_row_lacks() -> None:
    lines = to_markdown(make_table([SEAL, row("other", 1.0, z=(1,))], {})).splitlines()
    assert lines[-2:] == ["| bc4146bd | 1/3 | - |", "| z | - | 1/1 |"]


def test_a_row_without_marks() -> None:
    (found,) = make_table([TableRow("row", ())], {})["rows"]
    assert cells(found) == ("row", "0/0", "-", "0-100", "-", "0", "-", "-", "-")


@pytest.mark.parametrize(
    ("bounds", "left_out", "text"),
    [
        ((0.2, 0.05, 0.35), 0, "+20.0 points; 95 % interval +5.0 to +35.0 (bootstrap over 8 tasks"),
        ((-0.2, -0.35, -0.05), 0, "-20.0 points; 95 % interval -35.0 to -5.0 (bootstrap over 8 tasks"),
        ((0.1, -1e-17, 0.2), 4, "+10.0 points; 95 % interval +0.0 to +20.0 (bootstrap over 8 of 12 tasks"),
    ],
)
def test_the_difference_in_words(bounds: tuple[float, float, float], left_out: int, text: str) -> None:
    values = dict(zip(("mean", "low", "high"), bounds, strict=True))
    found = difference_text({"first": "SEAL", "second": "untrained", **values, "tasks": 8, "left_out": left_out})
    assert found.startswith(f"SEAL minus untrained: {text}, paired): ")
    assert found.endswith({0.05: "better.", -0.35: "worse.", -1e-17: "not shown to differ."}[bounds[1]])


def test_what_was_run() -> None:
    assert run_lines(evaluation())[2:] == ["seeds: 0, 1", "versions: arc-seal 0.2.0, torch 2.13.0"]
    assert "model" not in to_markdown(make_table([IN_CONTEXT], {}))
