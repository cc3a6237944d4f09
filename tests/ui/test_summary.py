"""The table at the end of a sweep."""

from pathlib import Path

from arc_seal.errors import InputError, Status
from arc_seal.ui.run_folder import Run
from arc_seal.ui.views import summary, totals
from tests.ui.builders import RIGHT, WRONG, solved
from tests.ui.golden import assert_golden, plain_console, shown

RUNS = [
    Run("5582e5ca", 0, Path("a"), solved(RIGHT, WRONG)),
    Run("5582e5ca", 1, Path("b"), solved(WRONG, reward=0, seed=1)),
    Run("5582e5ca", 2, Path("c"), solved(reward=0, seed=2, status=Status.TIMEOUT)),
    Run("tasks/missing.json", 0, Path("d"), None, InputError("tasks/missing.json", "", "a file", "none")),
]


def test_one_line_a_run() -> None:
    console = plain_console()
    console.print(summary(RUNS))
    assert_golden("summary.txt", shown(console))


def test_a_name_is_not_read_as_markup() -> None:
    console = plain_console()
    console.print(summary([Run("[bold]a[/bold]", 0, Path("a"), None, InputError("a", "", "a file", "none"))]))
    assert "[bold]a[/bold]" in shown(console)


def test_what_failed_counts_as_not_solved() -> None:
    assert totals(RUNS) == "Solved 1 of 4 runs; mean share of test outputs right 25.0%."


def test_what_has_no_solution_does_not_count() -> None:
    unscored = Run("x", 0, Path("x"), solved(RIGHT, reward=None))
    assert totals([*RUNS, unscored]).endswith("right 25.0%; 1 without a solution left out.")
    assert totals([unscored]) == "1 runs, no solutions to score them by."
