"""The grid model's codec: what is read and what is not, every token at its position, the right targets."""

from collections.abc import Sequence
from itertools import pairwise
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.inner_loop.policy import self_edit_prompt
from arc_seal.models.grid_codec import (
    ASK,
    FIRST_BYTE,
    INPUT,
    OUTPUT,
    GridCodec,
    grid_segment,
    join,
    text_segment,
)
from arc_seal.models.grid_network import positions_of
from arc_seal.models.prompt import END, ROW_END, Encoded, Prompt, Turn, demonstrations_prompt, query_prompt
from tests.arc.strategies import grids, tasks
from tests.models.builders import SMALL
from tests.self_edit.builders import random_grid

CODEC = GridCodec()
MARKS = (INPUT, OUTPUT, ASK)
WRITTEN = Turn("assistant", ('{"tools":[]}',), target=True)

ANSWERED = st.builds(lambda task: demonstrations_prompt(task.demos), tasks())
ASKED = st.builds(lambda task: query_prompt(task, task.queries[0]), tasks())
POLICY = st.builds(lambda task: self_edit_prompt(task, "menu", "{}"), tasks())
TAUGHT = st.builds(
    lambda prompt, text: Prompt((*prompt.turns, Turn("assistant", (text,), target=True))), POLICY, st.text(max_size=20)
)
PROMPTS = st.one_of(ANSWERED, ASKED, POLICY, TAUGHT)


def read(ids: Sequence[int]) -> list[tuple[int, str]]:
    """Tokens as what they say, by nothing but the vocabulary: marks and texts, grids as rows of digits."""
    starts = [index for index, token in enumerate(ids) if token in MARKS] + [len(ids)]
    return [(ids[start], said(ids[start + 1 : end])) for start, end in pairwise(starts)]


def said(tokens: Sequence[int]) -> str:
    if not tokens:
        return ""
    *content, end = tokens
    assert end == END
    if all(token >= FIRST_BYTE for token in content):
        return bytes(token - FIRST_BYTE for token in content).decode()
    return "".join({ROW_END: "\n"}.get(token, str(token)) for token in content)


def test_a_demonstration_is_written_as_the_vocabulary_says() -> None:
    demo = Demonstration(Grid.from_rows([[0, 0, 3], [0, 3, 0]]), Grid.from_rows([[7]]))
    encoded = CODEC.encode(demonstrations_prompt((demo,)))
    assert encoded.ids.tolist() == [INPUT, 0, 0, 3, ROW_END, 0, 3, 0, END, OUTPUT, 7, END]
    assert encoded.positions.tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0],
        [0, 1, 2, 3, 4, 1, 2, 3, 4, 0, 1, 2],
    ]
    assert encoded.target.tolist() == [False] * 10 + [True] * 2
    assert (encoded.ids.dtype, encoded.positions.dtype, encoded.target.dtype) == (np.int64, np.int64, np.bool_)


def test_a_self_edit_is_written_as_the_vocabulary_says() -> None:
    encoded = CODEC.encode(Prompt((Turn("user", ("go",)), Turn("assistant", ("{é",), target=True))))
    assert encoded.ids.tolist() == [ASK, *(FIRST_BYTE + byte for byte in b"{\xc3\xa9"), END]
    assert encoded.positions.tolist() == [[0] * 5, [0] * 5, [0, 1, 2, 3, 4]]
    assert encoded.target.tolist() == [False, True, True, True, True]


@given(task=tasks())
def test_a_query_reads_back(task: Task) -> None:
    shown = [grid for demo in task.demos for grid in (demo.input, demo.output)] + [task.queries[0]]
    ids = CODEC.encode(query_prompt(task, task.queries[0])).ids.tolist()
    assert read(ids) == [*zip([INPUT, OUTPUT] * len(task.demos) + [INPUT], map(str, shown), strict=True), (OUTPUT, "")]


@given(task=tasks(), text=st.text())
def test_what_the_policy_reads_and_writes_reads_back(task: Task, text: str) -> None:
    prompt = self_edit_prompt(task, "menu", "{}")
    shown = [grid for demo in task.demos for grid in (demo.input, demo.output)]
    demos = [*zip([INPUT, OUTPUT] * len(task.demos), map(str, shown), strict=True)]
    assert read(CODEC.encode(prompt).ids.tolist()) == [*demos, (ASK, "")]
    answered = Prompt((*prompt.turns, Turn("assistant", (text,), target=True)))
    assert read(CODEC.encode(answered).ids.tolist()) == [*demos, (ASK, text)]


def test_language_is_not_read() -> None:
    grid = SMALL.queries[0]
    bare = CODEC.encode(Prompt((Turn("user", ("", grid)), WRITTEN)))
    wordy = CODEC.encode(Prompt((Turn("system", ("Be terse.", grid)), Turn("user", ("Look: ", grid, "Go.")), WRITTEN)))
    assert same(bare, wordy)


def same(one: Encoded, other: Encoded) -> bool:
    pairs = ((one.ids, other.ids), (one.positions, other.positions), (one.target, other.target))
    return all(np.array_equal(left, right) for left, right in pairs)


@given(prompt=PROMPTS)
def test_the_next_position_is_where_the_next_token_stands(prompt: Prompt) -> None:
    encoded = CODEC.encode(prompt)
    opens = np.isin(encoded.ids[1:], MARKS)
    following = CODEC.next_positions(encoded.positions[:, :-1], encoded.ids[:-1])
    np.testing.assert_array_equal(following[:, ~opens], encoded.positions[:, 1:][:, ~opens])


@given(prompt=PROMPTS)
def test_a_mark_opens_the_next_segment(prompt: Prompt) -> None:
    encoded = CODEC.encode(prompt)
    marks = np.isin(encoded.ids, MARKS)
    assert encoded.positions[:, marks].tolist() == [list(range(marks.sum())), [0] * marks.sum(), [0] * marks.sum()]
    assert (encoded.positions[0] == np.cumsum(marks) - 1).all()


@given(prompt=PROMPTS)
def test_the_network_finds_the_same_positions_by_itself(prompt: Prompt) -> None:
    encoded = CODEC.encode(prompt)
    assert positions_of(torch.from_numpy(encoded.ids)[None])[:, 0].tolist() == encoded.positions.tolist()


@given(task=tasks(), answer=grids())
def test_an_answer_stands_behind_what_asked_for_it(task: Task, answer: Grid) -> None:
    for asked, part in (
        (query_prompt(task, task.queries[0]), answer),
        (self_edit_prompt(task, "menu", "{}"), "{}"),
    ):
        question = CODEC.encode(asked)
        whole = CODEC.encode(Prompt((*asked.turns, Turn("assistant", (part,), target=True))))
        length = len(question.ids)
        assert whole.ids[:length].tolist() == question.ids.tolist()
        assert whole.positions[:, :length].tolist() == question.positions.tolist()
        assert whole.target[:length].tolist() == question.target.tolist()
        assert whole.target[length:].all()


@given(task=tasks())
def test_every_output_after_the_first_is_a_target_without_its_mark(task: Task) -> None:
    encoded = CODEC.encode(demonstrations_prompt(task.demos))
    outputs = [demo.output for demo in (task.demos[1:] or task.demos)]
    written = "".join(f"{output}|" for output in outputs)
    names = dict(enumerate([*"0123456789", "\n", "|"]))
    assert "".join(names[token] for token in encoded.ids[encoded.target].tolist()) == written


@given(prompt=PROMPTS)
def test_target_all_leaves_out_the_first_token_alone(prompt: Prompt) -> None:
    plain, all_ = CODEC.encode(prompt), CODEC.encode(prompt, target_all=True)
    assert all_.target.tolist() == [False] + [True] * (len(all_.ids) - 1)
    assert same(plain, Encoded(all_.ids, all_.positions, plain.target))


def test_an_answer_is_asked_for_by_what_was_said_last() -> None:
    grid = SMALL.queries[0]
    for content, mark in (((grid,), OUTPUT), ((grid, "?"), ASK), (("?",), ASK), ((grid, grid), OUTPUT)):
        assert CODEC.encode(Prompt((Turn("user", content),))).ids[-1] == mark


def test_grids_of_a_turn_without_text_are_all_inputs() -> None:
    first, second = SMALL.demos[0].input, SMALL.demos[1].input
    ids = CODEC.encode(Prompt((Turn("user", (first, second)),))).ids.tolist()
    assert read(ids) == [(INPUT, str(first)), (INPUT, str(second)), (OUTPUT, "")]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 30), (30, 1), (7, 3), (30, 30)])
def test_segments_of_arrays_are_those_of_prompts(height: int, width: int) -> None:
    grid = random_grid(Random(0), height, width)
    ids, positions = join([grid_segment(grid.array, INPUT), grid_segment(grid.array, OUTPUT), text_segment("{}")])
    turns = (Turn("user", (grid,)), Turn("assistant", (grid, "{}")))
    encoded = CODEC.encode(Prompt(turns))
    assert (ids.tolist(), positions.tolist()) == (encoded.ids.tolist(), encoded.positions.tolist())


def test_what_is_shared_between_segments_cannot_be_written_to() -> None:
    segment = grid_segment(SMALL.queries[0].array, INPUT)
    with pytest.raises(ValueError, match="read-only"):
        segment.positions[0, 0] = 1
    join([segment])[1][:] = 7
    assert grid_segment(SMALL.queries[0].array, INPUT).positions[:, 0].tolist() == [0, 0]
