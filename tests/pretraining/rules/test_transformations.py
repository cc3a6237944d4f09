"""What each transformation does, on grids worked out by hand; rows are parted by spaces."""

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_seal.pretraining.rules import make, on_grids, on_objects, on_patterns
from arc_seal.pretraining.rules.catalogue import OWN, TRANSFORMATIONS, Cells, Style, Unfit
from arc_seal.pretraining.rules.objects import ANY, EXTREMES, KINDS, components, selected

STYLE = Style(0, (1, 2, 3), 5, (8, 9, 7, 6), 3, 9, 225, None)
DOWN, UP, RIGHT, LEFT = on_objects.DIRECTIONS
ONE_COLOUR = (OWN, 8)
RING = "1110 1010 1110 0000 0220"

EXAMPLES: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("recolour_selected", {"select": "largest", "colour": 8}, "110 000 002", "880 000 002"),
    ("delete_selected", {"select": "bottom"}, "110 000 002", "110 000 000"),
    ("keep_selected", {"select": "bottom"}, "110 000 002", "000 000 002"),
    ("crop_selected", {"select": "holed", "inside": False}, RING, "111 101 111"),
    ("crop_selected", {"select": "holed", "inside": True}, RING, "0"),
    ("recolour_like", {"select": "smallest"}, "110 000 002", "220 000 002"),
    ("colour_of_selected", {"select": "widest", "side": 2}, "110 000 002", "11 11"),
    ("outline", {"select": "all", "colour": 8}, "0000 0100 0000", "8880 8180 8880"),
    ("fill_holes", {"select": "all", "colour": 8}, RING, "1110 1810 1110 0000 0220"),
    ("fill_boxes", {"select": "all", "colour": 8}, "100 110 000", "180 110 000"),
    ("hollow_out", {"select": "all", "colour": 8, "empty": False}, "111 111 111", "111 181 111"),
    ("hollow_out", {"select": "all", "colour": 8, "empty": True}, "111 111 111", "111 101 111"),
    ("mirror_objects", {"select": "all", "axis": 1}, "1000 1100", "0100 1100"),
    ("slide", {"select": "all", "step": DOWN, "trail": False}, "10 00 00 20 00", "00 00 00 10 20"),
    ("slide", {"select": "all", "step": RIGHT, "trail": True}, "1005 0000", "1115 0000"),
    ("slide", {"select": "top", "step": LEFT, "trail": False}, "0011 0000 0200", "1100 0000 0200"),
    ("copy_beside", {"select": "all", "step": RIGHT, "mirrored": True}, "12000 00100 01100", "12200 00110 01111"),
    ("copy_beside", {"select": "all", "step": UP, "mirrored": False}, "000 000 110 010", "110 010 110 010"),
    ("shift_objects", {"select": "all", "by": 2, "step": RIGHT}, "1100 0000 2000", "0011 0000 0020"),
    ("stamp_at_marks", {}, "000000 025000 003000 000000 000005 000000", "000000 025000 003000 000000 000025 000003"),
    ("recolour_by_rank", {"by": "size", "descending": True}, "110 000 002", "880 000 009"),
    ("recolour_by_number", {"by": "holes"}, RING, "9990 9090 9990 0000 0880"),
    ("sort_by_kind", {"kind": "holed", "colour": 8, "other": 9}, RING, "8880 8080 8880 0000 0990"),
    ("count_objects", {"select": "all", "colour": 8, "form": 0}, "102 000 300", "888"),
    ("count_objects", {"select": "all", "colour": 8, "form": 2}, "102 000 000", "80 08"),
    ("count_by_colour", {"turns": 0}, "102 000 200", "22 10"),
    ("recolour_by_legend", {"erased": False}, "200 000 550", "200 000 220"),
    ("recolour_by_legend", {"erased": True}, "200 000 550", "000 000 220"),
    ("fill_enclosed", {"colour": 8, "outside": False}, RING, "1110 1810 1110 0000 0220"),
    ("fill_enclosed", {"colour": 8, "outside": True}, "1110 1010 1110", "1118 1018 1118"),
    (
        "fill_enclosed_by_size",
        {"colour": 8, "other": 9},
        "1111111 1001001 1111101 1111111",
        "1111111 1991881 1111181 1111111",
    ),
    ("fill_rooms", {}, "0250 0050 5550 0000", "2250 2250 5550 0000"),
    ("rotate", {"turns": 1}, "12 30", "20 13"),
    ("flip", {"axis": 0}, "12 30", "30 12"),
    ("transpose", {"turns": 0}, "12 30", "13 20"),
    ("transpose", {"turns": 2}, "12 30", "02 31"),
    ("roll", {"step": (1, -1), "by": 1}, "12 30", "03 21"),
    ("scale_up", {"down": 1, "across": 2}, "12 30", "1122 3300"),
    ("scale_by_colours", {}, "12 00", "1122 1122 0000 0000"),
    ("drop_repeats", {}, "1122 1122 3322", "12 32"),
    ("tile", {"down": 2, "across": 1}, "12 30", "12 30 12 30"),
    ("mirror_tile", {"corner": 0, "whole": True}, "12 30", "1221 3003 3003 1221"),
    ("turned_tile", {"tops": (0, 1), "turns": 2}, "12 30", "1220 3013 3103 0221"),
    ("fractal", {"inverse": False}, "12 30", "1212 3030 1200 3000"),
    ("frame", {"colour": 8, "grown": False}, "1111 1111 1111", "8888 8118 8888"),
    ("frame", {"colour": 8, "grown": True}, "1", "888 818 888"),
    ("crop_part", {"part": "bottom"}, "12 30 00 01", "00 01"),
    ("crop_part", {"part": "corner"}, "123 301 000", "12 30"),
    ("crop_part", {"part": "middle"}, "123 321 000", "2"),
    ("crop_content", {}, "000 010 001", "10 01"),
    ("crop_colour", {"colour": 2}, "100 020 322", "20 22"),
    ("drop_empty", {}, "100 000 002", "10 02"),
    ("drop_lines", {}, "010 111 010", "00 00"),
    ("replace_colours", {"by": 1}, "123 000", "238 000"),
    ("swap_colours", {"first": 1, "second": 2}, "123", "213"),
    ("invert", {}, "101", "010"),
    ("filter_colour", {"colour": 1, "kept": True}, "123", "100"),
    ("filter_colour", {"colour": 1, "kept": False}, "123", "023"),
    ("recolour_common", {"most": False, "colour": 8, "erased": False}, "112", "118"),
    ("list_colours", {"turned": True, "most": True}, "122", "2 1"),
    ("list_rings", {"turned": False}, "22222 21112 21312 21112 22222", "213"),
    ("reverse_rings", {}, "22222 21112 21312 21112 22222", "33333 31113 31213 31113 33333"),
    ("gravity", {"step": DOWN}, "12 00 30", "00 10 32"),
    ("gravity", {"step": LEFT}, "012 001", "120 100"),
    ("rays", {"steps": (RIGHT,), "colour": 8, "own": True}, "0100 0000 2005", "0111 0000 2225"),
    ("rays", {"steps": ((1, 1),), "colour": 8, "own": False}, "100 000 000", "100 080 008"),
    ("extend_lines", {"ahead": True, "colour": 8, "own": True}, "0000 0100 0010 0000", "1000 0100 0010 0001"),
    ("connect", {"colour": 8, "own": True}, "1001 0000 0002", "1111 0000 0002"),
    ("span_boxes", {"colour": 8, "own": False, "filled": False}, "1000 0000 0010", "1880 8080 8810"),
    ("lines_through", {"rows": (False, True), "colour": 8, "own": True}, "010 000 002", "012 012 012"),
    ("mark_crossings", {"colour": 8}, "010 111 010", "010 181 010"),
    ("colour_areas", {"colour": 8, "other": 9, "edge": False}, "0100 1111 0100", "9188 1111 9188"),
    ("colour_areas", {"colour": 8, "other": 9, "edge": True}, "01010", "81918"),
    ("project", {"turns": 0}, "100 020 000", "100 020 120"),
    ("rings", {"metric": "square", "period": 2, "back": False}, "00000 00000 00200", "22222 28882 28282"),
    (
        "halo",
        {"kind": "cross", "colour": 8, "other": 9},
        "00000 01000 00000 00020 00000",
        "08000 81800 08090 00929 00090",
    ),
    ("alternate", {"form": "checker", "odd": 0, "colour": 8, "on": 1}, "000 010", "808 010"),
    ("sort_lines", {"columns": True, "descending": True}, "001 021 321", "100 120 123"),
    ("fill_largest_rectangle", {"colour": 8}, "001 001 111", "881 881 111"),
    ("overlay_mirror", {"axis": (1,)}, "1200 3000", "1221 3003"),
    ("complete_symmetry", {"patch": False}, "1221 5513", "1221 3113"),
    ("complete_symmetry", {"patch": True}, "1221 5513", "31"),
    ("complete_tiling", {"patch": False}, "1212 3535 1212 3030", "1212 3030 1212 3030"),
    ("continue_sequence", {"colour": 8, "recoloured": False}, "10 12 10 12 00 00 00 00", "10 12 10 12 10 12 10 12"),
    ("denoise", {}, "0000 0500 0111 1151", "0000 0000 0111 1111"),
    ("mark_noise", {"colour": 8}, "0000 0500 0111 1151", "0000 0000 0111 1181"),
    ("combine_panels", {"name": "and", "colour": 8}, "11501 10511", "08 80"),
    ("combine_panels", {"name": "neither", "colour": 8}, "11501 00510", "00 08"),
    ("overlay_panels", {"last": False}, "11502 00520", "11 20"),
    ("overlay_panels", {"last": True}, "11502 00520", "12 20"),
    ("odd_panel", {}, "10510501 22522522", "01 22"),
    ("fullest_panel", {"most": True, "form": "crop", "colour": 8}, "10511 00500", "11 00"),
    ("fullest_panel", {"most": False, "form": "fill", "colour": 8}, "10511 00500", "88511 88500"),
    ("shrink_panels", {"colour": 8, "by": "full"}, "10511 00510", "08"),
    ("shrink_panels", {"colour": 8, "by": "colour"}, "10520530 00502503", "123"),
    ("shortest_path", {"colour": 8}, "15555 00005 55055 00010", "15555 88805 55855 00810"),
    ("dead_ends", {"colour": 8}, "05555 00005 55055", "85555 00085 55855"),
)


def grid(rows: str) -> Cells:
    return np.array([[int(cell) for cell in row] for row in rows.split()])


def applied(name: str, cells: Cells, /, **drawn: Any) -> Cells:
    return TRANSFORMATIONS[name].apply(cells, STYLE, **drawn)


@pytest.mark.parametrize(("name", "drawn", "rows", "expected"), EXAMPLES, ids=[example[0] for example in EXAMPLES])
def test_example(name: str, drawn: dict[str, Any], rows: str, expected: str) -> None:
    found = applied(name, grid(rows), **drawn)
    assert " ".join("".join(map(str, row)) for row in found) == expected


def test_every_transformation_has_an_example() -> None:
    assert {example[0] for example in EXAMPLES} == set(TRANSFORMATIONS)


@pytest.mark.parametrize(
    ("name", "drawn", "rows"),
    [
        ("crop_selected", {"select": "largest", "inside": False}, "101"),  # two largest
        ("recolour_selected", {"select": "unique shape", "colour": 8}, "102"),  # no shape is unique
        ("shift_objects", {"select": "all", "by": 1, "step": LEFT}, "100"),
        ("list_colours", {"turned": False, "most": True}, "12"),
        ("rays", {"steps": (RIGHT, DOWN), "colour": 8, "own": True}, "010 200"),  # they cross
        ("complete_symmetry", {"patch": False}, "15 25"),
        ("combine_panels", {"name": "and", "colour": 8}, "1051051"),
        ("fill_rooms", {}, "1250 0050"),
        ("rings", {"metric": "square", "period": 2, "back": False}, "101"),
        ("odd_panel", {}, "10501"),
        ("shortest_path", {"colour": 8}, "111"),
        ("fractal", {"inverse": False}, "12"),
    ],
)
def test_what_has_no_clear_answer_is_unfit(name: str, drawn: dict[str, Any], rows: str) -> None:
    with pytest.raises(Unfit):
        applied(name, grid(rows), **drawn)


cells_of = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 3), min_size=width, max_size=width), min_size=1, max_size=6)
)


@given(cells_of)
def test_components_are_a_partition_of_what_is_coloured(rows: list[list[int]]) -> None:
    cells = np.array(rows)
    for diagonal in (False, True):
        seen, new = np.zeros(cells.shape, int), np.zeros_like(cells)
        for one in components(cells, 0, diagonal):
            one.box(seen)[one.mask] += 1
            one.box(new)[one.mask] = one.colour
            assert one.size == one.mask.sum()
        assert np.array_equal(seen, cells != 0)
        assert np.array_equal(new, cells)


@given(cells_of)
def test_what_undoes_itself_does_so(rows: list[list[int]]) -> None:
    cells = np.array(rows)
    undo: tuple[Callable[[Cells], Cells], ...] = (
        lambda each: applied("rotate", applied("rotate", each, turns=1), turns=3),
        lambda each: applied("flip", applied("flip", each, axis=1), axis=1),
        lambda each: applied("transpose", applied("transpose", each, turns=2), turns=2),
        lambda each: applied("swap_colours", applied("swap_colours", each, first=1, second=2), first=1, second=2),
        lambda each: applied("roll", applied("roll", each, step=(1, 0), by=2), step=(-1, 0), by=2),
        lambda each: applied("crop_part", applied("frame", each, colour=8, grown=True), part="middle"),
        lambda each: applied("crop_part", applied("tile", each, down=2, across=2), part="corner"),
    )
    for both in undo:
        assert np.array_equal(both(cells), cells)


@given(cells_of, st.sampled_from(on_objects.DIRECTIONS))
def test_gravity_keeps_every_line_s_cells_in_order_and_can_do_no_more(
    rows: list[list[int]], step: tuple[int, int]
) -> None:
    cells = np.array(rows)
    fallen = applied("gravity", cells, step=step)
    assert np.array_equal(applied("gravity", fallen, step=step), fallen)
    lines = zip(*(each.T if step[0] else each for each in (cells, fallen)), strict=True)
    assert all([c for c in before if c] == [c for c in after if c] for before, after in lines)


def test_properties_tell_some_objects_from_others() -> None:
    rng, told = Random(0), set()
    for _ in range(60):
        style = make.draw_style(rng, 9, 225)
        cells = make.scenes.objects(rng, style, "mixed", (4, 8), False)
        found = components(cells, style.background)
        for select in {*ANY} - {"all"}:
            try:
                chosen = selected(found, select)
            except Unfit:
                continue
            told.add(select)
            assert 0 < len(chosen) < len(found)
            assert len(chosen) == 1 or select in KINDS
    assert told == {*EXTREMES, *KINDS}


def test_modules_register_what_they_define() -> None:
    assert {TRANSFORMATIONS[name].apply.__module__ for name in TRANSFORMATIONS} == {
        module.__name__ for module in (on_objects, on_grids, on_patterns)
    }
