"""What is written of the data that weights were made of."""

import json

import pytest
from pydantic import ValidationError

from arc_seal.arc.grid import Grid
from arc_seal.arc.splits import UNTRAINED
from arc_seal.arc.task import Demonstration
from arc_seal.pretraining.provenance import Provenance, SourceReport, gated, provenance

SOURCE = SourceReport(
    name="arc_gen", version="a15cbdb", licence="Apache-2.0", where="github.com/google/ARC-GEN", share=0.25, rules=410,
    pairs=70_000, left_out={"pairs: it shares a grid with arcagi1/evaluation": 30},
)  # fmt: skip


def test_it_says_everything_and_is_read_again() -> None:
    made = provenance([SOURCE], "python -m arc_seal.pretrain seed=1", 1, 1000, {"hidden_size": 192})
    text = made.model_dump_json(indent=2)
    assert Provenance.model_validate_json(text) == made
    found = json.loads(text)
    assert found["sources"] == [SOURCE.model_dump()]
    assert (found["seed"], found["tokens"], found["network"]) == (1, 1000, {"hidden_size": 192})
    assert found["never_trained_on"].keys() == set(UNTRAINED)
    assert found["never_trained_on"]["arcagi1/evaluation"] == 400
    assert found["command"] == "python -m arc_seal.pretrain seed=1"


def test_a_share_is_a_share() -> None:
    with pytest.raises(ValidationError):
        SourceReport(**{**SOURCE.model_dump(), "share": 1.5})


def test_the_gate_counts_what_it_leaves_out() -> None:
    pairs = [Demonstration(Grid(1, 1, bytes([colour])), Grid(1, 2, bytes(2))) for colour in range(6)]
    why = {pairs[0]: "it shares a pair with set/split/aa", pairs[1]: "it shares a pair with set/split/bb"}
    kept, left_out = gated({"left": pairs[1:], "lost": pairs[:4]}, why.get)
    assert kept == {"left": pairs[2:]}
    assert left_out == {"pairs: it shares a pair with set/split": 3, "rules: fewer than 4 pairs": 1}


def test_the_gate_drops_rules_of_fewer_than_four_pairs() -> None:
    pairs = [Demonstration(Grid(1, 1, bytes([colour])), Grid(1, 2, bytes(2))) for colour in range(4)]
    kept, left_out = gated({"whole": pairs, "short": pairs[:3], "empty": []}, lambda pair: None)
    assert kept == {"whole": pairs}
    assert left_out == {"rules: fewer than 4 pairs": 2}
