"""The report in a browser: what is in it, that nothing foreign acts in it, and, with Chromium, how it works."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import pytest

from arc_seal.arc.html import PALETTES
from arc_seal.arc.task import Solution, Task
from arc_seal.errors import InputError, Status
from arc_seal.inner_loop.job import Attempt
from arc_seal.outer_loop.ledger import Ledger
from arc_seal.outer_loop.restem import LEDGER
from arc_seal.outer_loop.table import to_json
from arc_seal.report import main
from arc_seal.self_edit.random_edit import draw_edit
from arc_seal.self_edit.schema import ChoiceSchema
from arc_seal.ui.report import make_report
from arc_seal.ui.run_folder import Run, read_folder, write_run, write_sweep
from tests.outer_loop.ledger_builders import policy, rollout
from tests.outer_loop.table_builders import evaluation
from tests.self_edit.test_choices import WIDE
from tests.ui.builders import OTHER_SIZE, RIGHT, SOLUTION, TASK, WRONG, solved

HOSTILE = '</pre></script><script>alert(1)</script><img src=x onerror="alert(1)">&amp;'

VOID = {"meta", "input", "br", "img", "link", "hr"}

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """What an HTML text holds; AssertionError where an element is not closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", list[str]()
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{self.getpos()}: {tag}"

    def handle_data(self, data: str) -> None:
        self.text += data if self._open[-1:] not in (["script"], ["style"]) else ""

    def all(self, tag: str, name: str) -> list[str | None]:
        """An attribute of all elements of a kind that have it."""
        return [attributes[name] for each, attributes in self.tags if each == tag and name in attributes]


def sweep(place: Path, tries: Sequence[tuple[str, int, Sequence[Attempt], int | None]], seconds: float = 1.0) -> Path:
    """A sweep of tasks like TASK under other ids: id, seed, attempts, reward."""
    runs = []
    for number, (task_id, seed, attempts, reward) in enumerate(tries):
        status = Status.OK if attempts else Status.DIED
        made = solved(*attempts, reward=reward, seed=seed, status=status)
        spent = {"train": seconds * (number + 1)}
        rollouts = made.rollouts
        if made.rollouts[0].result:
            eight = replace(made.rollouts[0].result, candidates=made.rollouts[0].result.candidates * 4)
            rollouts = (made.rollouts[0].model_copy(update={"result": eight}),)
        made = made.model_copy(update={"task_id": task_id, "seconds": spent, "rollouts": rollouts})
        entry = (Task(task_id, TASK.demos, TASK.queries), Solution(task_id, SOLUTION.outputs))
        write_run(place / str(number), made, entry, {"seed": seed, "note": f"{HOSTILE}\ud800"})
        runs.append(Run(task_id, seed, place / str(number), made))
    write_sweep(place, runs, ())
    return place


def six(place: Path) -> Path:
    """Six tasks: solved for sure, solved barely, not solved, failed, two more."""
    unsure = Attempt(RIGHT.grid, 3, -0.1, 0.1)
    return sweep(
        place,
        [("dd", 0, [RIGHT, WRONG], 1), ("bb", 0, [unsure], 1), ("aa", 0, [WRONG, OTHER_SIZE], 0), ("cc", 0, [], 0),
         ("ee", 0, [RIGHT], 1), ("ff", 0, [RIGHT], 1)],
    )  # fmt: skip


def training(place: Path) -> Path:
    """A training run of two rounds on TASK."""
    with Ledger.open(place / LEDGER) as ledger:
        ledger.begin("train", {"restem": {"rounds": 2}}, [(TASK, SOLUTION)])
        for number in range(2):
            made = [
                rollout(sample, run="train", round=number, task=TASK.id, attempts=((RIGHT,),), completion=None)
                for sample in range(3)
            ]
            ledger.record(made)
            ledger.record_policy(policy(run="train", round=number))
        ledger.begin("evaluate untrained", {})
        ledger.record([rollout(run="evaluate untrained", task="25ff71a9", completion=None)])
    return place


def test_a_sweep_has_every_task_and_what_came_of_it(tmp_path: Path) -> None:
    page = Page(make_report([read_folder(six(tmp_path))]))
    assert page.all("article", "data-id") == ["dd", "bb", "aa", "cc", "ee", "ff"]
    states = [set(str(each).split()) for each in page.all("article", "data-states")]
    slow = {"solved", "slow"}
    assert states == [{"solved"}, {"solved", "unsure"}, {"unsolved", "unsure"}, {"unsolved", "failed"}, slow, slow]
    assert "4 of 6" in page.text
    assert "2 of 9 cells wrong, 2 votes" in page.text and "wrong size, 1 vote" in page.text
    assert "4 6 8\n6 3 0\n4 6 8" in page.text  # a grid's digits, for who does not see it
    assert "rotate(quarter_turns=1)" in page.text and "smollm2, untrained" in page.text
    assert len(page.all("polyline", "points")) == 5


def test_cells_have_the_colours_of_the_terminal(tmp_path: Path) -> None:
    text = make_report([read_folder(sweep(tmp_path, [("aa", 0, [RIGHT], 1)]))])
    assert f"const COLOURS = {json.dumps([list(each) for each in PALETTES['arc']])};" in text


def test_cells_that_differ_are_marked(tmp_path: Path) -> None:
    page = Page(make_report([read_folder(sweep(tmp_path, [("aa", 0, [WRONG], 0)]))]))
    differing = [each for each in page.all("pre", "data-differing") if each]
    assert differing == ["2 6"]  # 881 888 188 beside 888 888 888, counted row by row


def test_confidence_is_shown_where_it_is_recorded(tmp_path: Path) -> None:
    run = read_folder(sweep(tmp_path, [("aa", 0, [RIGHT], 1)]))
    assert ", confidence" not in Page(make_report([run])).text
    (kept,) = run.kept
    sure = replace(RIGHT, confidence=0.125)
    told = replace(kept, solved=kept.solved.model_copy(update={"attempts": ((sure,),)}))
    page = Page(make_report([replace(run, kept=(told,))]))
    assert "right, 6 votes, confidence 12 %" in page.text
    assert page.all("article", "data-states") == ["solved unsure"]


def test_nothing_foreign_acts_in_it_and_nothing_is_loaded(tmp_path: Path) -> None:
    place = sweep(tmp_path, [(HOSTILE, 0, [RIGHT], 1)])
    text = make_report([read_folder(place)])
    page = Page(text)
    assert not re.search(r"https?://|@import|url\(", text)
    assert [tag for tag, _ in page.tags].count("script") == 1 and "img" not in [tag for tag, _ in page.tags]
    assert page.all("article", "data-id") == [HOSTILE]
    assert not page.all("script", "src") and not any(name.startswith("on") for _, each in page.tags for name in each)
    assert "default-src 'none'" in str(page.all("meta", "content"))


def test_every_control_has_a_name_and_every_id_is_one(tmp_path: Path) -> None:
    text = make_report([read_folder(six(tmp_path))])
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert set(page.all("article", "aria-labelledby")) <= set(ids)
    assert len(re.findall(r"<label[^>]*>[^<]*<(?:input|select)|<label[^>]*><input[^>]*>[^<]+</label>", text)) == 4
    assert '<html lang="en">' in text and 'href="#tasks"' in text and 'aria-live="polite"' in text
    assert page.all("svg", "aria-hidden") == ["true"] * [tag for tag, _ in page.tags].count("svg")


def test_runs_are_compared_on_their_tasks(tmp_path: Path) -> None:
    one = sweep(tmp_path / "one", [("aa", 0, [WRONG], 0), ("bb", 0, [WRONG], 0)])
    other = sweep(tmp_path / "other", [("aa", 1, [RIGHT], 1), ("bb", 1, [RIGHT], 1)])
    page = Page(make_report([read_folder(one), read_folder(other)]))
    assert "other minus one: +100.0 points" in page.text
    assert page.all("article", "data-id") == ["aa", "bb"]
    assert all("differ" in str(states) for states in page.all("article", "data-states"))
    assert re.search(r"seed\s*0\s*1", page.text)  # what differs in the configuration


def test_a_training_run_shows_its_rounds_and_choices(tmp_path: Path) -> None:
    page = Page(make_report([read_folder(training(tmp_path))]))
    for said in (
        "round 1",
        "round 2",
        "held out, untrained",
        "What the policy chooses",
        "max examples",
        "Best tasks",
        "All 6 roll-outs",
    ):
        assert said in page.text
    assert page.all("article", "data-id") == [TASK.id]


def test_a_training_run_in_the_form_of_choices_shows_them(tmp_path: Path) -> None:
    schema, rng = ChoiceSchema(WIDE), Random(0)
    edits = [draw_edit(schema, rng) for _ in range(12)]
    made = [
        rollout(
            number, run="train", task=TASK.id, self_edit=each, attempts=((RIGHT,),), completion=schema.canonical(each)
        )
        for number, each in enumerate(edits)
    ]
    with Ledger.open(tmp_path / LEDGER) as ledger:
        ledger.begin("train", {}, [(TASK, SOLUTION)])
        ledger.record(made)
    choices = re.findall(r"\ndemonstrations(\S+)\n", Page(make_report([read_folder(tmp_path)])).text)
    assert choices == ["2", "3", "all"]


def test_an_evaluation_shows_its_table(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(to_json(evaluation()))
    page = Page(make_report([read_folder(tmp_path)]))
    for row in evaluation()["rows"]:
        assert row["name"] in page.text
    assert "SEAL minus" in page.text and page.all("circle", "cx")


def test_a_run_of_which_nothing_is_done_yet_has_a_report(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / LEDGER) as ledger:
        ledger.begin("train", {}, [(TASK, SOLUTION)])
    fault = InputError("x.json", "", "a file", HOSTILE)
    write_sweep(tmp_path / "bad", [Run("x.json", 0, tmp_path / "bad" / "0", None, fault)], ())
    page = Page(make_report([read_folder(tmp_path), read_folder(tmp_path / "bad")]))
    assert "Could not be worked on" in page.text and HOSTILE in page.text
    assert "They share no task that both have a reward for." in page.text


@pytest.mark.parametrize(
    ("name", "text"), [("summary.json", '[{"folder": "0"}]'), ("table.json", '{"rows": [{}], "run": {}}')]
)
def test_a_file_that_lacks_something_is_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}: expected"):
        read_folder(tmp_path)


def test_the_command_writes_it_beside_the_run_or_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = sweep(tmp_path / "run", [("aa", 0, [RIGHT], 1)])
    assert main([str(place)]) == 0 and (place / "report.html").is_file()
    assert main([str(place), f"out={tmp_path / 'other.html'}"]) == 0 and (tmp_path / "other.html").is_file()
    assert capsys.readouterr().out.splitlines()[-1] == f"Written to {tmp_path / 'other.html'}"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "arguments: expected the folder of a run, such as runs/latest (or --help), found none"),
        (
            ["nowhere"],
            "nowhere: expected the folder of a run, with result.json, summary.json, ledger.sqlite, table.json,",
        ),
        (["{here}"], "{here}: expected the folder of a run, with result.json"),
        (["{here}", "ouy=x"], "ouy=x: expected a folder or out=FILE (did you mean 'out'?), found an unknown argument"),
        (
            ["{here}/run", "out={here}/no/such/file.html"],
            "{here}/no/such/file.html: expected a file that can",
        ),
    ],
)
def test_bad_input_is_one_line(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(tmp_path / "run", [("aa", 0, [RIGHT], 1)])
    assert main([each.format(here=tmp_path) for each in argv]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {message.format(here=tmp_path)}") and said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium (Debian's package of that name)")
@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("", ["dd", "bb", "aa", "cc", "ee", "ff"]),
        ("show=solved&sort=id", ["bb", "dd", "ee", "ff"]),
        ("show=unsure", ["bb", "aa"]),
        ("show=slow&sort=slow", ["ff", "ee"]),
        ("sort=unsolved", ["aa", "cc", "dd", "bb", "ee", "ff"]),
        ("find=C", ["cc"]),
        ("find=zz", []),
        ("sort=nothing&show=nothing", ["dd", "bb", "aa", "cc", "ee", "ff"]),
    ],
)
def test_in_a_browser_tasks_are_filtered_and_sorted(asked: str, shown: list[str], tmp_path: Path) -> None:
    page = Page(browsed(make_report([read_folder(six(tmp_path / "run"))]), tmp_path, asked))
    visible = [each for tag, each in page.tags if tag == "article" and "hidden" not in each]
    assert [each["data-id"] for each in visible] == shown
    assert f"{len(shown)} of 6 tasks" in page.text


TYPED = """
const find = document.querySelector("input[name=find]");
find.value = "b"; find.dispatchEvent(new Event("input", {bubbles: true}));
document.querySelector("input[name=digits]").click();
const stops = [...document.querySelectorAll("a[href], input, select, summary")].filter(each => each.tabIndex >= 0);
stops[0].focus();
setTimeout(() => {
  const canvas = document.querySelector(".card:not([hidden]) canvas");
  const pixel = canvas.getContext("2d").getImageData(2, 2, 1, 1).data;
  document.body.dataset.seen = JSON.stringify({hash: location.hash, first: document.activeElement.className,
    pixel: [...pixel].slice(0, 3), text: getComputedStyle(canvas.parentNode).color,
    far: document.querySelectorAll(".card canvas").length, wide: document.documentElement.scrollWidth <= innerWidth});
}, 300);
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium (Debian's package of that name)")
def test_in_a_browser_it_is_used_by_keyboard_and_draws_what_is_seen(tmp_path: Path) -> None:
    many = [(f"{number:03}b", 0, [RIGHT, WRONG], 1) for number in range(120)]
    text = make_report([read_folder(sweep(tmp_path / "run", many))])
    page = Page(browsed(text.replace("</script>", f"{TYPED}</script>"), tmp_path))
    (seen,) = map(str, page.all("body", "data-seen"))
    assert '"hash":"#find=b"' in seen and '"first":"skip"' in seen  # the link past the overview comes first
    assert '"pixel":[255,220,0]' in seen  # ARC's yellow: the first demonstration's input begins with 4
    assert '"text":"rgba(0, 0, 0, 0)"' in seen and '"wide":true' in seen
    drawn = int(re.findall(r'"far":(\d+)', seen)[0])
    assert 0 < drawn < 120 * 9 / 2  # a task's grids are drawn when it comes near


def browsed(text: str, folder: Path, asked: str = "") -> str:
    """The page as a browser has it when its script has run."""
    (folder / "report.html").write_text(text)
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000"]
    command.append(f"{(folder / 'report.html').as_uri()}{f'#{asked}' if asked else ''}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
