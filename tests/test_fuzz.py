"""Thousands of spoilt inputs: each is read or refused in one printable line, in no time. The seeds are fixed."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from arc_seal.arc.datasets import load_tasks
from arc_seal.errors import InputError, InvalidSelfEdit
from arc_seal.inner_loop.job import FinetuneJob, FinetuneSettings, RewardedEdit
from arc_seal.inner_loop.lora import with_adapter
from arc_seal.inner_loop.policy import finetune
from arc_seal.outer_loop.ledger import Ledger
from arc_seal.self_edit.paper import PaperBounds, PaperSchema
from arc_seal.self_edit.random_edit import draw_edit
from arc_seal.self_edit.schema import Bounds, ChoiceSchema, Schema, SelfEditSchema
from tests.inner_loop.builders import ignore
from tests.models.builders import SMALL, scripted_model
from tests.outer_loop.ledger_builders import policy, rollout
from tests.self_edit.builders import TOOLBOX, edit
from tests.self_edit.test_choices import WIDE
from tests.smoke import ROOT

pytestmark = pytest.mark.slow

LONGEST_S = 5.0
"""No input may take longer."""

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 9, 10, 255, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, 1e400, -0.0, float("nan"), "",
    "a", "\x1b[31m", "\u202e", "\udc80", "0", "x" * 5000, [], {}, [[]], [{}], {"": {}}, [[0]], [[[0]]], [0] * 900,
    [[0] * 31], [[0]] * 31, {"train": []}, {"tool": "rotate"}, {"tool": "chain", "steps": []},
    {"_target_": "os.system"},
)  # fmt: skip
"""Values to put in the place of others."""

NAMES = (
    "train",
    "test",
    "input",
    "output",
    "",
    "tool",
    "tools",
    "arguments",
    "steps",
    "training",
    "\x1b[2J",
    "__class__",
)


@contextmanager
def refused(*kinds: type[Exception]) -> Iterator[None]:
    """What is read within is read, or refused in one printable line, in time."""
    began = time.monotonic()
    try:
        yield
    except kinds as error:
        assert str(error).isprintable() and str(error), repr(str(error))
    assert time.monotonic() - began < LONGEST_S


def flipped(content: bytes, rng: Random) -> bytes:
    """The content with some bytes changed, put in, left out, or doubled."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8, 40))):
        at = rng.randrange(len(changed) + 1)
        until = at + rng.choice((1, 1, 2, 10, 300))
        match rng.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at:at] = rng.choice(
                    (b"[", b"]", b"{", b"}", b",", b'"', b"\\", b"-", b"9", b"e9", b"\x00", b"\xff")
                )
            case 2:
                del changed[at:until]
            case 3:
                changed[at:at] = changed[at:until]
            case 4:
                changed[at:until] = rng.randbytes(until - at)
            case _ if rng.random() < 0.1:
                del changed[at:]
    return bytes(changed)


def mutated(value: Any, rng: Random) -> Any:
    """The JSON value with one of its parts replaced, left out, doubled, renamed or wrapped."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        copied: Any = value.copy()
        keys = list(copied) if isinstance(copied, dict) else range(len(copied))
        key = rng.choice(keys)
        match rng.randrange(8):
            case 0:
                del copied[key]
            case 1 if isinstance(copied, list):
                copied.insert(key, copied[key])
            case 1:
                copied[rng.choice(NAMES)] = copied[key]
            case 2 if isinstance(copied, dict):
                copied[rng.choice(NAMES)] = copied.pop(key)
            case 3 if isinstance(copied, list):
                rng.shuffle(copied)
            case _:
                copied[key] = mutated(copied[key], rng)
        return copied
    match rng.randrange(4):
        case 0:
            return [value]
        case 1:
            return {rng.choice(NAMES): value}
        case _:
            return rng.choice(ODD)


def written(value: Any, rng: Random) -> bytes:
    """The value as JSON; sometimes nested deeply, or with numbers that only some readers know."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, None, 1)))
    if rng.random() < 0.02:
        depth = rng.choice((10, 1000, 100_000))
        text = text.replace("[", "[" * depth, 1)
    return text.encode("utf-8", "surrogatepass")


def spoilt(value: Any, rng: Random) -> bytes:
    """A JSON value, spoilt in its structure, its bytes, or both."""
    kind = rng.randrange(4)
    for _ in range(rng.choice((1, 1, 2, 5)) if kind else 0):
        value = mutated(value, rng)
    content = written(value, rng)
    return flipped(content, rng) if kind in (0, 1) else content


def test_task_files(tmp_path: Path) -> None:
    rng, real = Random(0), [json.loads(path.read_text()) for path in sorted((ROOT / "tasks").glob("*.json"))]
    kaggle = {
        f"{number:08x}": {**task, "test": [{"input": task["test"][0]["input"]}]} for number, task in enumerate(real[:3])
    }
    solutions = {f"{number:08x}": [[[1]]] for number in range(3)}
    read = 0
    for number in range(20_000):
        path = tmp_path / "x_challenges.json"
        if number % 5:
            path.write_bytes(spoilt(rng.choice(real), rng))
        else:
            path.write_bytes(spoilt(kaggle, rng) if rng.random() < 0.5 else written(kaggle, Random(0)))
            (tmp_path / "x_solutions.json").write_bytes(spoilt(solutions, rng))
        with refused(InputError):
            assert load_tasks(str(path))
            read += 1
        (tmp_path / "x_solutions.json").unlink(missing_ok=True)
    assert 500 < read < 15_000  # some are still tasks


@pytest.mark.parametrize(
    "schema",
    [SelfEditSchema(TOOLBOX, Bounds()), ChoiceSchema(WIDE), PaperSchema(PaperBounds())],
    ids=["own", "choices", "paper"],
)
def test_self_edits(schema: Schema) -> None:
    rng, parsed = Random(1), 0
    texts = [json.loads(schema.canonical(draw_edit(schema, rng))) for _ in range(100)]
    for _ in range(5_000):
        changed = spoilt(rng.choice(texts), rng).decode("utf-8", rng.choice(("replace", "surrogateescape")))
        with refused(InvalidSelfEdit):
            made = schema.parse(changed)
            hash(made)
            assert schema.parse(schema.canonical(made)) == made
            parsed += 1
    assert 20 < parsed < 4_000


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a policy's adapter."""
    folder = tmp_path_factory.mktemp("kept") / "round-1"
    own = edit(max_examples=16)
    schema = SelfEditSchema(TOOLBOX, Bounds())
    edits, settings = (RewardedEdit(SMALL, schema.canonical(own)),), FinetuneSettings(epochs=1, lora_rank=2)
    job = FinetuneJob(edits, schema.menu(), schema.canonical(own), schema.json_schema(), settings, 0, str(folder))
    finetune(job, scripted_model(), ignore)
    return folder


def test_policy_folders(adapter: Path, tmp_path: Path) -> None:
    rng, model, used = Random(2), scripted_model(), 0
    before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    ids = torch.arange(8)[None]
    for number in range(300):
        folder = tmp_path / f"{number}"
        shutil.copytree(adapter, folder)
        config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
        if number % 2:
            config.write_bytes(spoilt(json.loads(config.read_text()), rng))
        else:
            content = weights.read_bytes()
            header = rng.random() < 0.5  # else anywhere
            weights.write_bytes(flipped(content[:600], rng) + content[600:] if header else flipped(content, rng))
        with refused(InputError), with_adapter(model, folder):
            model.network(input_ids=ids)
            used += 1
        after = model.network.state_dict()
        assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
        shutil.rmtree(folder)
    assert used < 250


def spoil_ledger(path: Path, rng: Random) -> None:
    """Flip some bits, overwrite a part, or cut the file short."""
    content = bytearray(path.read_bytes())
    match rng.randrange(4):
        case 0:
            for _ in range(rng.choice((1, 2, 8, 50))):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        case 1:
            at = rng.randrange(len(content))
            content[at : at + 40] = rng.randbytes(min(40, len(content) - at))
        case 2:
            content[rng.randrange(100)] = rng.randrange(256)  # in the file's header
        case _:
            del content[rng.randrange(len(content)) :]
    path.write_bytes(content)


READING: dict[str, Callable[[Ledger], object]] = {
    "rollouts": lambda ledger: ledger.rollouts(finished=None),
    "policies": lambda ledger: ledger.policies("seal"),
    "configuration": lambda ledger: ledger.configuration("seal"),
    "entries": lambda ledger: ledger.entries("seal"),
}


def test_ledgers(tmp_path: Path) -> None:
    """What is read is what was written; whole rows may be missing, for an index may have lost them."""
    whole, rng, intact = tmp_path / "whole.sqlite", Random(3), 0
    with Ledger.open(whole) as ledger:
        ledger.begin("seal", {"a": [1, 2]}, load_tasks("arcagi1/25ff71a9", "arcagi1/5582e5ca"))
        ledger.record([rollout(sample) for sample in range(12)])
        ledger.record_policy(policy())
        known = {name: reading(ledger) for name, reading in READING.items()}
    for number in range(300):
        path = tmp_path / f"{number}.sqlite"
        shutil.copy(whole, path)
        spoil_ledger(path, rng)
        for name, reading in READING.items():
            with refused(InputError), Ledger.read_only(path) as ledger:
                found = reading(ledger)
                if isinstance(found, list):
                    assert all(each in known[name] for each in found)  # type: ignore[operator]
                else:
                    assert found in ({}, known[name])
                intact += found == known[name]
        with refused(InputError), Ledger.open(path) as ledger:
            try:
                ledger.begin("seal", {"a": [1, 2]})
                ledger.record([rollout(99)])
            except ValueError as error:  # the row's run is lost
                assert str(error).isprintable()
        for left in tmp_path.glob(f"{number}.sqlite*"):
            left.unlink()
    assert 50 < intact < 1_100
