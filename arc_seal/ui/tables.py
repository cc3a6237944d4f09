"""The table of an evaluation, in a terminal."""

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from arc_seal.outer_loop.table import Count, Difference, Table
from arc_seal.outer_loop.table_text import HEADINGS, NOTE, cells, difference_text, differences, failures_text, run_lines
from arc_seal.ui.terminal import printable

_GOOD, _BAD = "bold #56b4e9", "#e69f00"
"""Okabe and Ito's sky blue and orange: told apart by all kinds of colour vision; the digits say the same."""


def evaluation(table: Table, by_task: bool = False) -> Group:
    """The rows, how roll-outs failed, the difference, what was run, and if asked for a line a task."""
    failed = [(row.name, failures_text(row)) for row in table.rows if row.failures]
    parts: list[RenderableType] = [Text("Evaluation", style="bold"), _rows(table)]
    parts += [Text(printable(f"Failed, {name}: {text}")) for name, text in failed]
    parts += [Text()] if differences(table) else []
    parts += [_difference(each) for each in differences(table)]
    parts += [Text(), Text(NOTE)]
    parts += [Text()] if table.run else []
    parts += [Text(printable(line)) for line in run_lines(table)]
    parts += [Text(), Text("Solved by task", style="bold"), _tasks(table)] if by_task else []
    return Group(*parts)


def _rows(table: Table) -> RichTable:
    """A line a row. Only names are broken, so that figures stay whole in 80 columns."""
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    shown.add_column(HEADINGS[0], overflow="fold")
    for heading in HEADINGS[1:]:
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(Text(printable(cell)) for cell in cells(row)))
    return shown


def _difference(difference: Difference) -> Text:
    """Coloured where the interval lies on one side of zero, which is said in words too."""
    style = {1: _GOOD, 0: "", -1: _BAD}[difference.side()]
    return Text(printable(difference_text(difference)), style=style)


def _tasks(table: Table) -> RichTable:
    """A line a task, a column a row."""
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    shown.add_column("task", overflow="fold")
    for row in table.rows:
        shown.add_column(Text(printable(row.name)), justify="right", overflow="fold")
    for task in table.tasks():
        shown.add_row(Text(printable(task)), *(_mark(row.tasks.get(task)) for row in table.rows))
    return shown


def _mark(count: Count | None) -> Text:
    """Such as `3/5`; in colour where all or none of the roll-outs solved the task."""
    if count is None:
        return Text("-")
    return Text(str(count), style=_GOOD if count.correct == count.total else "" if count.correct else _BAD)
