"""The table of an evaluation, as a pipe and as a terminal see it."""

import re

from arc_seal.outer_loop.table import make_table
from arc_seal.ui.views import evaluation
from tests.outer_loop import table_builders
from tests.ui.golden import assert_golden, colour_console, plain_console, shown

ESCAPES = re.compile(r"\x1b\[[\d;]*m")


def test_in_plain_lines() -> None:
    console = plain_console()
    console.print(evaluation(table_builders.evaluation(), by_task=True))
    assert_golden("evaluation.txt", shown(console))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown(console))
    assert max(map(len, shown(console).splitlines())) <= 80


def test_in_colour() -> None:
    console = colour_console()
    console.print(evaluation(table_builders.evaluation(), by_task=True))
    assert_golden("evaluation_colour.txt", shown(console))


def test_no_color_leaves_the_figures_alone() -> None:
    coloured, bare, plain = colour_console(), colour_console(), plain_console()
    bare.no_color = True
    for console in (coloured, bare, plain):
        console.print(evaluation(table_builders.evaluation(), by_task=True))
    assert not re.search(r"\x1b\[[\d;]*[34][0-9]", shown(bare))
    assert ESCAPES.sub("", shown(bare)) == ESCAPES.sub("", shown(coloured)) == shown(plain)


def test_figures_stay_whole_in_80_columns() -> None:
    many = {f"task{number:04}": (1, 0, 1, 1, 0) for number in range(400)}
    names = "in context", "TTT, random self-edits", "TTT, untrained policy", "TTT, best fixed self-edit", "SEAL"
    table = make_table([table_builders.row(name, 1234.5, **many) for name in names], {}, draws=10)
    console = plain_console()
    console.print(evaluation(table, by_task=True))
    lines = shown(console).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("1200/2000  60.0   58-62" in line for line in lines) == len(names)
    assert sum(line.split()[1:] == ["3/5"] * len(names) for line in lines) == len(many)


def test_tasks_are_shown_when_asked_for() -> None:
    console = plain_console()
    console.print(evaluation(table_builders.evaluation()))
    assert "c7d4e6ad" not in shown(console)


def test_a_name_does_not_steer_the_terminal() -> None:
    console = plain_console()
    table = make_table([table_builders.row("\x1b[31mred [bold]", 1.0, **{"\x1b[2J": (1,)})], {"model": "\x07"})
    console.print(evaluation(table, by_task=True))
    assert "\x1b" not in shown(console) and "\x07" not in shown(console)
    assert "[bold]" in shown(console)
