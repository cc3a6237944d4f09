"""A run from its configuration to its weights: what it trains on, what it begins with, what it refuses."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from arc_seal.arc.datasets import DEV, SEAL_TRAINING, load_task, load_tasks
from arc_seal.arc.grid import SYMMETRIES, apply
from arc_seal.arc.splits import UNTRAINED, never_trained, solved_pairs, untrained
from arc_seal.arc.task import Demonstration
from arc_seal.cli import rewrite
from arc_seal.config import compose, make, read_config
from arc_seal.errors import InputError
from arc_seal.files import tools_dir
from arc_seal.models.grid_codec import FIRST_BYTE
from arc_seal.models.grid_network import GridForCausalLM
from arc_seal.models.model import load
from arc_seal.models.weights import GridSource
from arc_seal.pretraining import re_arc
from arc_seal.pretraining.loop import LATEST, PretrainingProgress, RunSettings
from arc_seal.pretraining.optim import OptimizerSettings
from arc_seal.pretraining.pool import Pool, gate
from arc_seal.pretraining.provenance import FILE, Provenance
from arc_seal.pretraining.run import (
    PretrainConfig,
    _schema,
    drawn_pools,
    export,
    first_weights,
    run,
    write_self_edit,
)
from arc_seal.pretraining.stream import DataSettings
from arc_seal.self_edit.schema import Bounds, SelfEditSchema
from arc_seal.self_edit.toolbox import Toolbox
from tests.arc.test_splits import all_images, spelt
from tests.models.builders import grid_network, save_model
from tests.models.test_weights import run_python
from tests.pretraining.builders import needs_re_arc
from tests.pretraining.tiny import pool_of, state_of, tiny_pool

ROOT = Path(__file__).parents[2]

TINY = (
    "network.hidden_size=32", "network.intermediate_size=64", "network.num_hidden_layers=1",
    "network.num_attention_heads=2", "data.shares={re_arc:0,compositions:0,rules:0}", "data.max_tokens=120",
    "data.self_edit_max_tokens=100",
    "run.tokens=1500", "run.batch_tokens=512", "run.workers=0", "optimizer.warmup_tokens=500", "device=cpu",
    "measure_max_tokens=250",
)  # fmt: skip

IDENTITY = {
    "seed", "weights", "run.batch_tokens",
    "network._target_", "network.hidden_size", "network.intermediate_size", "network.num_hidden_layers",
    "network.num_attention_heads", "network.revision",
    "data.shares", "data.pairs_per_generator", "data.rules", "data.pairs_per_rule",
    "data.max_tokens", "data.fewest_pairs", "data.most_pairs",
    "data.self_edit_share", "data.self_edit_max_tokens", "data.new_rule_share", "data.keep_background_share",
    "optimizer.matrix_rate", "optimizer.other_rate", "optimizer.weight_decay", "optimizer.max_gradient_norm",
    "optimizer.warmup_tokens", "optimizer.decay_share",
    "content of tools/", "version of what is never trained on", "version of re_arc",
    "version of compositions", "version of rules",
}  # fmt: skip
"""What checkpoints hold: with one more, or one less, no run of an older version could go on."""


def config_of(folder: Path, *argv: str) -> PretrainConfig:
    """The configuration of a command line."""
    (job,) = compose("pretrain", rewrite([f"hydra.run.dir={folder}", *argv]).overrides, sweep=False)
    return read_config(job.values, PretrainConfig)


def carry_out(folder: Path, *argv: str, watch: Callable[[PretrainingProgress], None] = lambda progress: None) -> Any:
    config = config_of(folder, *TINY, *argv)
    return run(config, make(config.network), folder, watch, refuse_generators)


def refuse_generators(made: object) -> None:
    raise AssertionError("no generator is needed here")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PretrainingProgress], Any]:
    folder, told = tmp_path_factory.mktemp("run"), list[PretrainingProgress]()
    return folder, told, carry_out(folder, watch=told.append)


def test_a_run_leaves_weights_that_can_be_used(trained: tuple[Path, list[PretrainingProgress], Any]) -> None:
    folder, told, finished = trained
    assert finished.weights == folder / "weights" and finished.tokens == told[-1].clock.tokens >= 1500
    model = load(GridSource("mine", str(finished.weights), device="cpu"))
    assert finished.parameters == model.network.num_parameters()
    kept = state_of(folder / LATEST)["network"]
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, kept[name].to(torch.bfloat16).float())
    assert all(value.dtype == torch.bfloat16 for value in load_file(finished.weights / "model.safetensors").values())
    assert json.loads((finished.weights / "config.json").read_text())["dtype"] == "bfloat16"
    made = Provenance.model_validate_json((finished.weights / FILE).read_text())
    assert made.tokens == finished.tokens and [source.name for source in made.sources] == ["tasks"]
    assert (made.sources[0].rules, made.sources[0].share) == (471, 1)


def test_a_run_measures_on_short_dev_tasks(trained: tuple[Path, list[PretrainingProgress], Any]) -> None:
    _, told, _ = trained
    assert [set(progress.scores) for progress in told] == [set()] * (len(told) - 1) + [{"dev"}]
    assert 1 <= told[-1].scores["dev"].contexts <= 20


def test_the_seed_fixes_a_run(trained: tuple[Path, list[PretrainingProgress], Any], tmp_path: Path) -> None:
    torch.manual_seed(12345)
    carry_out(tmp_path / "same")
    carry_out(tmp_path / "other", "seed=1")
    names = [(folder / "losses.jsonl").read_text() for folder in (trained[0], tmp_path / "same", tmp_path / "other")]
    assert names[0] == names[1] != names[2]


@needs_re_arc
def test_what_makes_a_run_the_one_that_it_is(tmp_path: Path) -> None:
    assert set(config_of(tmp_path).identity) == IDENTITY
    more = config_of(tmp_path, "run.tokens=9", "run.compile=true", "run.workers=7", "name=x", "device=cpu").identity
    assert more == config_of(tmp_path).identity


AS_BEFORE = ", as the run has it that goes on here (or another folder)"


def test_a_run_goes_on_with_the_tools_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random self-edits of the stream depend on what the tools' files say, wherever they are."""
    carry_out(tmp_path / "run")
    tools = tmp_path / "tools"
    shutil.copytree(tools_dir(), tools, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("arc_seal.pretraining.run.tools_dir", lambda: tools)
    carry_out(tmp_path / "run")
    flip = (tools / "flip.py").read_text()
    for change in (
        lambda: (tools / "flip.py").write_text(f"{flip}\n"),
        lambda: (tools / "flip.py").rename(tools / "flap.py"),
    ):
        change()
        with pytest.raises(InputError) as caught:
            carry_out(tmp_path / "run", "run.tokens=3000")
        message = rf'configuration: content of tools/: expected "\w{{16}}"{re.escape(AS_BEFORE)}, found "\w{{16}}"'
        assert re.fullmatch(message, str(caught.value))
        (tools / "flip.py").write_text(flip)
    (tools / "flap.py").unlink()
    carry_out(tmp_path / "run", "run.tokens=1600")


@needs_re_arc
def test_a_run_goes_on_with_the_generators_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arc_seal.pretraining.sources.source_pool", lambda *_, **__: tiny_pool(sides=(1, 2)))
    monkeypatch.setattr("arc_seal.pretraining.run.source_pool", lambda *_, **__: tiny_pool(sides=(1, 2)))
    carry_out(tmp_path, "data.shares.re_arc=0.5")
    carry_out(tmp_path, "data.shares.re_arc=0.5")
    before = re_arc.version()
    monkeypatch.setattr("arc_seal.pretraining.re_arc.version", lambda: "0.1.26")
    with pytest.raises(InputError) as caught:
        carry_out(tmp_path, "data.shares.re_arc=0.5", "run.tokens=3000")
    assert str(caught.value) == f'configuration: version of re_arc: expected "{before}"{AS_BEFORE}, found "0.1.26"'


def test_a_run_without_generated_pairs_needs_no_generators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out(tmp_path)
    monkeypatch.setattr("arc_seal.pretraining.re_arc.version", refuse_generators)
    carry_out(tmp_path, "run.tokens=1600")


def test_what_settings_are_when_nothing_is_said_is_what_the_command_has(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert config.data == DataSettings()
    assert config.optimizer == OptimizerSettings()
    assert config.run == RunSettings(tokens=config.run.tokens)


def test_a_run_goes_on_from_weights(trained: tuple[Path, list[PretrainingProgress], Any], tmp_path: Path) -> None:
    folder, told, finished = trained
    config = make(config_of(tmp_path, *TINY).network)
    first = first_weights(str(finished.weights), config)
    assert all(value.dtype == torch.float32 for value in first.state_dict().values())
    kept = state_of(folder / LATEST)["network"]
    assert all(torch.equal(value, kept[name].bfloat16().float()) for name, value in first.state_dict().items())
    again: list[PretrainingProgress] = []
    carry_out(tmp_path / "more", f"weights={finished.weights}", "optimizer.warmup_tokens=100000", watch=again.append)
    assert again[0].loss < told[0].loss - 0.2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 64),
        ("intermediate_size", 32),
        ("num_hidden_layers", 2),
        ("num_attention_heads", 4),
        ("rope_base", 7.0),
    ],
)
def test_weights_of_other_sizes_are_refused(tmp_path: Path, name: str, value: float) -> None:
    network = grid_network(layers=1, revision=2)
    network.save_pretrained(tmp_path / "weights")
    config = make({**config_of(tmp_path, *TINY).network, name: value})
    own = getattr(network.config, name)
    with pytest.raises(InputError) as caught:
        first_weights(str(tmp_path / "weights"), config)
    assert (
        str(caught.value)
        == f"configuration: network.{name}: expected {own}, as {tmp_path / 'weights'} has it, found {value}"
    )


def test_a_later_revision_begins_as_the_same_function(tmp_path: Path) -> None:
    network = grid_network(3, layers=2, revision=1).eval()
    network.save_pretrained(tmp_path / "weights")
    later = first_weights(str(tmp_path / "weights"), grid_network(layers=2, revision=2).config)
    assert later.config.revision == 2 and later.num_parameters() > network.num_parameters()
    ids = torch.randint(0, FIRST_BYTE, (2, 40), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(later(ids).logits, network(ids).logits, atol=1e-5)


def test_all_that_a_later_revision_has_more_of_can_be_learnt(tmp_path: Path) -> None:
    network = grid_network(3, layers=2, revision=1)
    network.save_pretrained(tmp_path / "weights")
    later = first_weights(str(tmp_path / "weights"), grid_network(layers=2, revision=2).config)
    ids = torch.randint(0, FIRST_BYTE, (2, 40), generator=torch.Generator().manual_seed(0))
    later(ids, labels=ids).loss.backward()
    more = {name for name, _ in later.named_parameters()} - {name for name, _ in network.named_parameters()}
    gradients = {name: weight.grad for name, weight in later.named_parameters() if name in more}
    assert len(more) == 2 + 3 + 1
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())


def test_an_earlier_revision_is_refused(tmp_path: Path) -> None:
    grid_network(layers=1, revision=2).save_pretrained(tmp_path / "weights")
    with pytest.raises(InputError) as caught:
        first_weights(str(tmp_path / "weights"), grid_network(layers=1, revision=1).config)
    assert (
        str(caught.value)
        == f"configuration: network.revision: expected 2 or later, as {tmp_path / 'weights'} has it, found 1"
    )


def lose_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def cut_in_half(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lose_a_tensor, "expected weights for the whole network, found none for 1 tensors, such as lm_head.weight"),
        (cut_in_half, "expected a causal language model that transformers can read"),
        (save_model, "configuration: weights: expected weights of a grid model, found of llama"),
    ],
)
def test_weights_that_are_not_a_whole_grid_models_are_refused(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "weights"
    grid_network(layers=1).save_pretrained(folder)
    spoil(folder)
    with pytest.raises(InputError) as caught:
        first_weights(str(folder), grid_network(layers=1).config)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_are_not_there_are_refused_and_looked_for_nowhere_else(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), "gpt2"):
        with pytest.raises(
            InputError, match=r"weights: expected shipped, or a folder with weights .* found '"
        ) as caught:
            first_weights(name, grid_network(layers=1).config)
        assert str(caught.value).endswith(f"found {name!r}")


def test_weights_are_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    export(grid_network(0, layers=2), folder)
    (tmp_path / "weights.new").mkdir()  # what a killed run has left
    (tmp_path / "weights.new" / "model.safetensors").write_text("half")
    network = grid_network(1, layers=1)
    state, config = torch.get_rng_state(), network.config.to_dict()
    export(network, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights"]
    read = GridForCausalLM.from_pretrained(folder)
    own = network.state_dict()
    assert all(torch.equal(value, own[name].bfloat16()) for name, value in read.state_dict().items())
    assert all(value.dtype == torch.float32 for value in own.values())
    assert network.config.to_dict() == config and torch.equal(torch.get_rng_state(), state)


class Killed(BaseException):
    """What ends a process here: nobody catches it."""


class Watched:
    """Runs the steps of an export, is killed at one of them, and sees to it that a complete copy is there after each.

    Args:
        folder: What is exported to.
        kill_at: Which step; 0 for none. A copy is then written by half, or removed by half; a rename is whole or none.
    """

    def __init__(self, folder: Path, kill_at: int = 0) -> None:
        self.folder, self.kill_at, self.steps = folder, kill_at, 0

    def export(self, network: GridForCausalLM) -> bool:
        """Export; False when that was killed."""
        own = {(Path, "rename"): None, (shutil, "rmtree"): remove_half, (GridForCausalLM, "save_pretrained"): save_half}
        with pytest.MonkeyPatch.context() as patch:
            for (owner, name), half in own.items():
                patch.setattr(owner, name, self._watched(getattr(owner, name), half))
            try:
                export(network, self.folder)
            except Killed:
                return False
        return True

    def _watched(self, step: Callable[..., Any], half: Callable[..., None] | None) -> Callable[..., Any]:
        def take(*args: Any, **kwargs: Any) -> Any:
            before = copies(self.folder)
            self.steps += 1
            if self.steps == self.kill_at:
                if half:
                    half(step, *args, **kwargs)
                assert copies(self.folder) or not before
                raise Killed
            done = step(*args, **kwargs)
            assert copies(self.folder) or not before
            return done

        return take


def remove_half(remove: Callable[..., Any], folder: Path, *args: Any, **kwargs: Any) -> None:
    for file in sorted(folder.glob("*"))[:1]:
        file.unlink()


def save_half(save: Callable[..., Any], network: GridForCausalLM, folder: Path, **kwargs: Any) -> None:
    save(network, folder, **kwargs)
    cut_in_half(folder)


def copies(folder: Path) -> list[Path]:
    """Complete copies of the weights, whatever they are called."""
    return [each for each in folder.parent.iterdir() if is_complete(each)]


def is_complete(folder: Path) -> bool:
    if not (folder / "config.json").exists() or not (folder / "model.safetensors").exists():
        return False
    try:
        return bool(load_file(folder / "model.safetensors"))
    except SafetensorError:
        return False


@pytest.mark.parametrize("exported", [False, True])
def test_there_is_a_complete_copy_whenever_an_export_is_killed(tmp_path: Path, exported: bool) -> None:
    """Killed at any step, then again at any step of the next export, the third goes through."""
    network = grid_network(layers=1)
    for first in range(1, 8):
        for second in range(8):
            folder = tmp_path / f"{first}-{second}" / "weights"
            folder.parent.mkdir()
            assert not exported or Watched(folder).export(network)
            done = [Watched(folder, kill_at).export(network) for kill_at in (first, second)]
            assert Watched(folder).export(network)
            assert [path.name for path in folder.parent.iterdir()] == ["weights"] and copies(folder) == [folder]
    assert done == [True, True]  # so many steps none has


class Stop(Exception):
    """What stops a run here as a kill would."""


def test_weights_that_a_killed_export_has_moved_away_are_put_back(tmp_path: Path) -> None:
    def stop(progress: PretrainingProgress) -> None:
        raise Stop

    finished = carry_out(tmp_path)
    before = (finished.weights / "model.safetensors").read_bytes()
    finished.weights.rename(tmp_path / "weights.old")
    with pytest.raises(Stop):
        carry_out(tmp_path, "run.tokens=3000", watch=stop)
    assert (finished.weights / "model.safetensors").read_bytes() == before


def unseen_images() -> set[tuple[object, ...]]:
    """Every image of every pair that must stay unseen, made without `Contamination`."""
    return {image for spec in UNTRAINED for entry in load_tasks(spec) for image in all_images(entry)}


def leaks(pool: Pool, images: set[tuple[object, ...]]) -> list[str]:
    return [task_id for task_id in pool.task_ids for pair in pool.pairs(task_id) if spelt(pair) in images]


def test_nothing_that_is_measured_or_tuned_on_is_in_what_is_trained_on(tmp_path: Path) -> None:
    """By every image of every unseen pair, and by `Contamination`; a planted task is the control."""
    ((pool, share),) = drawn_pools(config_of(tmp_path, *TINY).data, refuse_generators).values()
    ids = {entry[0].id for spec in UNTRAINED for entry in load_tasks(spec)}
    assert share == 0.2 and len(pool.task_ids) == 471
    assert not ids & set(pool.task_ids) and {*SEAL_TRAINING, *DEV} <= ids
    images = unseen_images()
    assert leaks(pool, images) == []
    left = gate({task_id: pool.pairs(task_id) for task_id in pool.task_ids}).left_out
    assert set(left) == {"rules: fewer than 4 pairs"}
    planted = load_tasks("arcagi1/evaluation/00576224", "arcagi1/training/5582e5ca", f"arcagi1/training/{DEV[0]}")
    spoilt = pool_of(disguised(entry, seed) for seed, entry in enumerate(planted))
    assert len(spoilt) == len(leaks(spoilt, images)) > 9
    assert len(gate({task_id: spoilt.pairs(task_id) for task_id in spoilt.task_ids})) == 0


def disguise(pair: Demonstration, seed: int) -> Demonstration:
    """The pair turned or mirrored, and in other colours."""
    rng = Random(seed)
    symmetry, colours = rng.choice(SYMMETRIES[1:]), np.array(rng.sample(range(10), 10))
    return Demonstration(
        *(grid.mapped(lambda cells: colours[apply(cells, symmetry)]) for grid in (pair.input, pair.output))
    )


def disguised(entry: Any, seed: int) -> Any:
    """The task with all its pairs so changed, as a task of demonstrations alone."""
    pairs = tuple(disguise(pair, seed) for pair in solved_pairs(entry))
    return type(entry[0])(f"planted{seed}", pairs, (pairs[0].input,)), None


@pytest.mark.parametrize(
    "spec", ["arcagi1/evaluation/00576224", "arcagi2/evaluation/0934a4d8", "seal/training/5582e5ca"]
)
def test_a_planted_pair_is_taken_out_and_nothing_else(spec: str) -> None:
    plain = tiny_pool(tasks=2, sides=(1, 2))
    (planted, *_) = solved_pairs(load_task(spec))
    pairs = {task_id: list(plain.pairs(task_id)) for task_id in plain.task_ids}
    for symmetry in range(3):
        pairs["task1"].insert(2 * symmetry, disguise(planted, symmetry))
    assert untrained().reason_of_pair(pairs["task1"][0])
    left = gate(pairs)
    assert {task_id: left.pairs(task_id) for task_id in left.task_ids} == {
        task_id: plain.pairs(task_id) for task_id in plain.task_ids
    }


SAVE_POOLS = """
import sys
from pathlib import Path
from arc_seal.pretraining.run import drawn_pools
from tests.pretraining.test_run import TINY, config_of
folder = Path(sys.argv[1])
config = config_of(folder, *TINY, "data.shares.re_arc=0.3", "data.pairs_per_generator=4")
for pool, share in drawn_pools(config.data, lambda made: None).values():
    pool.save(folder / f"{share}.npz")
"""


@needs_re_arc
@pytest.mark.slow
def test_no_generator_of_what_is_unseen_is_trained_on(tmp_path: Path) -> None:
    """With pairs of every generator that there is, made anew in a cache of its own."""
    done = run_python(SAVE_POOLS, tmp_path, ARC_SEAL_CACHE=tmp_path / "cache", PYTHONPATH=ROOT)
    assert done.returncode == 0, done.stderr
    real, made = (Pool.load(tmp_path / f"{share}.npz") for share in (0.2, 0.3))
    assert len(real.task_ids) == 471 and len(made) > 1000
    assert not set(made.task_ids) & never_trained()
    assert never_trained() >= {*SEAL_TRAINING, *DEV}
    images = unseen_images()
    assert leaks(made, images) == leaks(real, images) == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.most_pairs=1", "configuration: data.most_pairs: expected at least data.fewest_pairs, 2, found 1"),
        ("data.new_rule_share=2", "configuration: data.new_rule_share: expected less than or equal to 1, found 2"),
        ("data.shares.tasks=-1", "configuration: data.shares.tasks: expected greater than or equal to 0, found -1"),
        (
            "data.shares={tasks:0,re_arc:0,compositions:0,rules:0}",
            "configuration: data.shares: expected one share above 0 at least, found",
        ),
        ("run.tokens=0", "configuration: run.tokens: expected greater than or equal to 1, found 0"),
        ("optimizer.matrix_rate=nan", "configuration: optimizer.matrix_rate: expected a finite number, found NaN"),
        ("name=a/b", "configuration: name: expected String should match pattern"),
        ("+data.max_token=3", "data.max_token: expected a setting that there is (did you mean 'data.max_tokens'?)"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, argument: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        config_of(tmp_path, argument)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "argv",
    [
        ("data.max_tokens=32",),
        ("data.fewest_pairs=30", "data.most_pairs=30"),
        ("data.self_edit_share=1", "data.self_edit_max_tokens=32"),
    ],
)
def test_data_that_no_context_can_be_drawn_from_are_refused(tmp_path: Path, argv: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"^configuration: data: expected settings that let a context be drawn"):
        drawn_pools(config_of(tmp_path, *TINY, *argv).data, refuse_generators)


def test_random_self_edits_are_valid_and_their_generators() -> None:
    schema = SelfEditSchema(Toolbox.load([tools_dir()]), Bounds())
    texts = [write_self_edit(np.random.default_rng(seed)) for seed in range(8)]
    assert len(set(texts)) == 8
    assert [schema.canonical(schema.parse(text)) for text in texts] == texts
    _schema.cache_clear()
    other = pickle.loads(pickle.dumps(write_self_edit))
    assert [other(np.random.default_rng(seed)) for seed in range(8)] == texts
