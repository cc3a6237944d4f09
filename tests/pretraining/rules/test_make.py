"""The rules made: every scene with every transformation, and what is kept of a rule."""

from collections.abc import Iterator
from random import Random

import numpy as np
import pytest

from arc_seal.pretraining import re_arc
from arc_seal.pretraining.re_arc import PairLimits
from arc_seal.pretraining.rules import make
from arc_seal.pretraining.rules.catalogue import SCENES, SPARE, TRANSFORMATIONS, USED, Style, Unfit, parameters
from tests.pretraining.builders import needs_re_arc

pytestmark = needs_re_arc

PAIRS = 6


@pytest.fixture(scope="module")
def made() -> Iterator[dict[str, list[make.Demonstration]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "RULES", 50)
        yield make.make("rules-0007", 0, PAIRS)


def kept(name: str, seed: str = "") -> tuple[make.Rule, list[make.Demonstration]]:
    """The first rule that begins with a transformation and is kept."""
    rng = Random(f"{name}/{seed}")
    for _ in range(200):
        rule = make.draw(rng, TRANSFORMATIONS[name], rng.choice(make.STEPS))
        if rule and (pairs := make.pairs_of(rule, rng, PAIRS)):
            return rule, pairs
    raise AssertionError(f"no rule with {name} is kept")


def test_a_group_is_made_by_its_arguments_alone(made: dict[str, list[make.Demonstration]]) -> None:
    assert make.make("rules-0007", 0, PAIRS) == made
    assert set(make.make("rules-0008", 0, PAIRS)).isdisjoint(made)
    assert make.make("rules-0007", 1, PAIRS) != made


def test_a_rule_of_a_task_that_must_not_be_trained_on_is_left_out(
    made: dict[str, list[make.Demonstration]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the tasks left out has its verifier, so no rule that is there may be solved by one, as some would be."""
    assert {"68b16354", "67e8384a", "7f4411dc"} <= set(make._asked())  # of dev, SEAL's twelve and `policy`
    asked = make._asked()
    assert not any(re_arc.solved_by(asked, pairs) for pairs in made.values())
    monkeypatch.setattr(make, "_asked", lambda: ())
    monkeypatch.setattr(make, "RULES", 50)
    everything = make.make("rules-0007", 0, PAIRS)
    assert any(re_arc.solved_by(asked, pairs) for pairs in everything.values())


def test_nearly_every_rule_of_a_group_is_there(made: dict[str, list[make.Demonstration]]) -> None:
    assert 0.85 * make.RULES <= len(made) <= make.RULES


def test_pairs_obey_the_limits_and_show_something(made: dict[str, list[make.Demonstration]]) -> None:
    for name, pairs in made.items():
        assert len(set(pairs)) == PAIRS, name
        assert len({pair.output for pair in pairs}) > 1, name
        for pair in pairs:
            assert pair.input != pair.output, name
            assert len(pair.input.cells) + len(pair.output.cells) <= PairLimits().max_cells, name


def test_groups_have_room_for_the_rules_asked_for() -> None:
    assert make.groups(0) == []
    assert make.groups(make.RULES) == ["rules-0000"]
    assert len(make.groups(make.RULES + 1)) == 2
    assert make.version().startswith(f"form {make.FORMAT}, reasoning-gym ")


def test_there_are_enough_of_both() -> None:
    assert len(TRANSFORMATIONS) >= 60
    assert len(SCENES) >= 20
    assert {scene for one in TRANSFORMATIONS.values() for scene in one.scenes} == set(SCENES)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_transformation_makes_rules_and_leaves_its_input_alone(name: str) -> None:
    rule, pairs = kept(name)
    step, drawn = next((step, drawn) for step, drawn in rule.steps if step.name == name)
    for pair in pairs:
        cells = pair.input.array.astype(np.int64)
        cells.flags.writeable = False
        once = step.apply(cells, rule.style, **drawn)
        assert np.array_equal(step.apply(cells.copy(), rule.style, **drawn), once)
        if len(rule.steps) == 1:
            assert np.array_equal(once, pair.output.array)


@pytest.mark.parametrize("scene", SCENES)
def test_a_transformation_is_apt_for_any_scene_or_says_that_it_is_not(scene: str) -> None:
    """Later transformations of a rule are given grids that earlier ones made."""
    rng, told = Random(scene), 0
    for name in TRANSFORMATIONS:
        try:
            style = make.draw_style(rng, SCENES[scene].least, 225)
            cells = SCENES[scene].draw(rng, style, **parameters(rng, style, SCENES[scene].values))
            assert cells.min() >= 0
            assert cells.max() <= 9
            new = TRANSFORMATIONS[name].apply(cells, style, **parameters(rng, style, TRANSFORMATIONS[name].values))
            told += not np.array_equal(new, cells)
            assert new.ndim == 2
        except Unfit:
            pass
    assert told > 10


def test_scenes_show_no_spare_colour() -> None:
    for name, scene in SCENES.items():
        for seed in range(20 if name != "legend" else 0):
            rng = Random(f"{name}/{seed}")
            style = make.draw_style(rng, scene.least, 225)
            cells = scene.draw(rng, style, **parameters(rng, style, scene.values))
            assert set(np.unique(cells)) <= {style.background, style.mark, *style.colours}, name


def test_colours_of_a_transformation_differ() -> None:
    style = Style(0, (1, 2), 3, (4, 5), 5, 9, 225, None)
    drawn = parameters(Random(0), style, {"first": SPARE, "second": SPARE, "other": USED, "by": (7,)})
    assert {drawn["first"], drawn["second"]} == {4, 5}
    assert drawn["other"] in (1, 2)
    assert drawn["by"] == 7
    with pytest.raises(Unfit):
        parameters(Random(0), style, {"first": USED, "second": USED, "third": USED})


def test_a_rule_that_does_not_tell_is_dropped() -> None:
    style = Style(0, (1,), 3, (4, 5), 5, 9, 225, None)
    points, square = SCENES["points"], TRANSFORMATIONS["colour_of_selected"]
    constant = make.Rule(style, points, {"count": (2, 4)}, ((square, {"select": "top", "side": 2}),))
    assert make.pairs_of(constant, Random(0), PAIRS) is None
    idle = make.Rule(style, points, {"count": (2, 4)}, ((TRANSFORMATIONS["swap_colours"], {"first": 6, "second": 7}),))
    assert make.pairs_of(idle, Random(0), PAIRS) is None


def test_each_step_of_a_rule_shows() -> None:
    style, several = Style(0, (1, 2), 3, (4, 5), 5, 9, 225, None), {"count": (3, 6)}
    counted = (TRANSFORMATIONS["count_objects"], {"select": "all", "colour": 4, "form": 2})
    turned = (TRANSFORMATIONS["flip"], {"axis": 0})  # there are as many objects as before
    filtered = (TRANSFORMATIONS["filter_colour"], {"colour": 1, "kept": True})
    points = SCENES["points"]
    assert make.pairs_of(make.Rule(style, points, several, (turned, counted)), Random(0), PAIRS) is None
    assert make.pairs_of(make.Rule(style, points, several, (filtered, turned)), Random(0), PAIRS)


def test_the_name_says_the_rule() -> None:
    rule, _ = kept("gravity")
    assert str(rule).startswith(rule.scene.name)
    assert "gravity(step=(" in str(rule)
