"""The network of the grid model: what it computes depends on tokens and relative positions alone, however it is fed."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from arc_seal.arc.grid import Grid
from arc_seal.config import make
from arc_seal.errors import InputError
from arc_seal.files import conf_dir
from arc_seal.inner_loop.lora import with_fresh_adapter
from arc_seal.models.grid_codec import AXES, INPUT, OUTPUT, PAD, VOCABULARY, GridCodec, next_positions
from arc_seal.models.grid_network import (
    REVISIONS,
    GridConfig,
    GridForCausalLM,
    GridTransformer,
    Rotation,
    positions_of,
    rotary_frequencies,
)
from arc_seal.models.model import Model, check_output_layer, grid_tokenizer
from arc_seal.models.prompt import END, ROW_END, Encoded, Prompt, demonstrations_prompt, query_prompt
from tests.models.builders import SMALL, grid_network
from tests.models.test_grid_codec import PROMPTS
from tests.self_edit.builders import random_grid, random_task

CODEC = GridCodec()
CONTEXTS = [CODEC.encode(query_prompt(task, task.queries[0])) for task in (SMALL, random_task(1, 2), random_task(2, 1))]
FLAT = random_task(3, sides=(1,)).map_grids(lambda grid: Grid(1, 4, bytes(range(4))))
LENGTH = len(CONTEXTS[0].ids)


@pytest.fixture(scope="module", params=REVISIONS, ids=lambda revision: f"revision {revision}")
def network(request: pytest.FixtureRequest) -> GridForCausalLM:
    return frozen(request.param)


def frozen(revision: int) -> GridForCausalLM:
    made = grid_network(revision=revision).eval()
    made.requires_grad_(False)
    return made


def tensors(context: Encoded) -> tuple[Tensor, Tensor]:
    """One context as a batch: ids [1, T] and positions [AXES, 1, T]."""
    return torch.from_numpy(context.ids)[None], torch.from_numpy(context.positions)[:, None]


def logits_of(context: Encoded, network: GridForCausalLM) -> Tensor:
    ids, positions = tensors(context)
    return as_tensor(network(input_ids=ids, position_ids=positions).logits[0])


def as_tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def padded(contexts: Sequence[Encoded], left: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Contexts side by side: ids, positions, and the mask, 0 for padding."""
    longest = max(len(context.ids) for context in contexts)
    ids = torch.full((len(contexts), longest), PAD)
    positions = torch.zeros((AXES, len(contexts), longest), dtype=torch.long)
    for row, context in enumerate(contexts):
        where = slice(longest - len(context.ids), None) if left else slice(None, len(context.ids))
        ids[row, where], positions[:, row, where] = (
            torch.from_numpy(each) for each in (context.ids, context.positions)
        )
    return ids, positions, (ids != PAD).long()


def near(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=2e-5)


@settings(max_examples=25)
@given(cuts=st.sets(st.integers(1, LENGTH - 1)))
def test_logits_with_a_cache_are_those_without(network: GridForCausalLM, cuts: set[int]) -> None:
    ids, positions = tensors(CONTEXTS[0])
    cache, parts = DynamicCache(config=network.config), []
    for begin, end in pairwise([0, *sorted(cuts), LENGTH]):
        output = network(input_ids=ids[:, begin:end], position_ids=positions[..., begin:end], past_key_values=cache)
        cache = output.past_key_values
        parts.append(output.logits[0])
        assert cache.get_seq_length() == end
    assert near(torch.cat(parts), logits_of(CONTEXTS[0], network))


def test_a_cache_is_given_when_it_is_wanted(network: GridForCausalLM) -> None:
    ids, _ = tensors(CONTEXTS[0])
    assert network(input_ids=ids).past_key_values.get_seq_length() == LENGTH
    assert network(input_ids=ids, use_cache=False).past_key_values is None


@pytest.mark.parametrize("left", [True, False])
def test_the_last_states_alone_are_the_last_of_all(network: GridForCausalLM, left: bool) -> None:
    ids, positions, mask = padded(CONTEXTS, left=True)
    given = {"input_ids": ids, "position_ids": positions, "attention_mask": mask if left else None}
    every, last = network.model(**given), network.model(**given, only_last=True)
    assert near(last.last_hidden_state, every.last_hidden_state[:, -1:])
    for ours, own in zip(last.past_key_values.layers, every.past_key_values.layers, strict=True):
        assert near(ours.keys, own.keys) and near(ours.values, own.values)


def test_right_padding_changes_nothing(network: GridForCausalLM) -> None:
    ids, positions, mask = padded(CONTEXTS, left=False)
    plain = network(input_ids=ids, position_ids=positions).logits
    masked = network(input_ids=ids, position_ids=positions, attention_mask=mask).logits
    for row, context in enumerate(CONTEXTS):
        for logits in (plain, masked):
            assert near(logits[row, : len(context.ids)], logits_of(context, network))


def test_left_padding_changes_nothing_with_a_mask(network: GridForCausalLM) -> None:
    ids, positions, mask = padded(CONTEXTS, left=True)
    logits = network(input_ids=ids, position_ids=positions, attention_mask=mask).logits
    unmasked = network(input_ids=ids, position_ids=positions).logits
    assert torch.isfinite(logits).all()
    for row, context in enumerate(CONTEXTS):
        own = logits_of(context, network)
        assert near(logits[row, -len(own) :], own)
        assert near(unmasked[row, -len(own) :], own) == (len(own) == ids.shape[1])


def test_left_padding_changes_nothing_with_a_cache(network: GridForCausalLM) -> None:
    ids, positions, mask = padded(CONTEXTS, left=True)
    half = ids.shape[1] - 4
    first = network(input_ids=ids[:, :half], position_ids=positions[..., :half], attention_mask=mask[:, :half])
    second = network(
        input_ids=ids[:, half:], position_ids=positions[..., half:], attention_mask=mask,
        past_key_values=first.past_key_values,
    )  # fmt: skip
    for row, context in enumerate(CONTEXTS):
        assert near(second.logits[row], logits_of(context, network)[-4:])


def test_no_token_sees_those_after_it(network: GridForCausalLM) -> None:
    ids, positions = tensors(CONTEXTS[0])
    other = ids.clone()
    other[0, 20:] = 7
    changed = network(input_ids=other, position_ids=positions).logits[0]
    assert torch.equal(changed[:20], logits_of(CONTEXTS[0], network)[:20])
    assert not torch.allclose(changed[20:], logits_of(CONTEXTS[0], network)[20:])


@given(prompt=PROMPTS, left=st.integers(0, 3))
def test_positions_worked_out_from_tokens_are_the_codecs(prompt: Prompt, left: int) -> None:
    encoded = CODEC.encode(prompt)
    ids = torch.from_numpy(np.concatenate([np.full(left, PAD), encoded.ids]))[None]
    positions = positions_of(ids)
    np.testing.assert_array_equal(positions[:, 0, left:], encoded.positions)
    assert not positions[:, 0, :left].any()


def test_positions_of_a_batch_are_those_of_its_rows(network: GridForCausalLM) -> None:
    ids, positions, _ = padded(CONTEXTS, left=True)
    assert torch.equal(positions_of(ids), positions)
    assert torch.equal(network(input_ids=ids).logits, network(input_ids=ids, position_ids=positions).logits)


@given(
    position=st.tuples(st.integers(0, 20), st.integers(0, 30), st.integers(0, 400)),
    token=st.integers(0, VOCABULARY - 1),
)
def test_the_next_position_is_a_column_on_or_in_the_next_row(position: tuple[int, int, int], token: int) -> None:
    segment, row, column = position
    expected = [segment, row + 1, 1] if token == ROW_END else [segment, row, column + 1]
    given_ = np.array(position)[:, None, None]
    following = next_positions(given_, np.array([[token]]))
    assert following.flatten().tolist() == expected and given_.flatten().tolist() == [*position]
    assert next_positions(torch.from_numpy(given_), torch.tensor([[token]])).tolist() == following.tolist()


@settings(max_examples=20)
@given(axis=st.integers(0, AXES - 1), shift=st.integers(-40, 40))
def test_in_revision_1_positions_count_relative_to_one_another_alone(axis: int, shift: int) -> None:
    network = frozen(1)
    # Every row begins at column 1, whatever has been moved, so columns are moved where there is one row alone.
    ids, positions = tensors(CODEC.encode(demonstrations_prompt(FLAT.demos)) if axis == 2 else CONTEXTS[0])
    assert axis < 2 or not (ids == ROW_END).any()
    own = network(input_ids=ids, position_ids=positions).logits
    moved = positions.clone()
    moved[axis] += shift
    assert torch.allclose(network(input_ids=ids, position_ids=moved).logits, own, atol=2e-4)
    scaled = positions.clone()
    scaled[axis] *= 3
    if positions[axis].any():
        assert not torch.allclose(network(input_ids=ids, position_ids=scaled).logits, own, atol=2e-4)


def test_from_revision_2_on_a_token_knows_where_it_is() -> None:
    ids, positions = tensors(CONTEXTS[0])
    for axis in range(AXES):
        moved = positions.clone()
        moved[axis] += 1
        logits = [frozen(revision)(input_ids=ids, position_ids=moved).logits[0] for revision in REVISIONS]
        own = [logits_of(CONTEXTS[0], frozen(revision)) for revision in REVISIONS]
        relative = axis < 2  # every row begins at column 1, so columns cannot be moved alone
        assert torch.allclose(logits[0], own[0], atol=2e-4) == relative
        assert not torch.allclose(logits[1], own[1], atol=1e-2)


def test_revision_2_begins_with_blocks_that_add_nothing() -> None:
    config = copy.deepcopy(frozen(2).config)
    first = GridForCausalLM(config)
    ids, _ = tensors(CONTEXTS[0])
    states = first(input_ids=ids, output_hidden_states=True).hidden_states
    assert all(torch.equal(state, states[0]) for state in states[:-1])
    assert first.num_parameters() == frozen(1).num_parameters() + (2 + 32 + 32) * 32 + 2 * 2 + 2 * 2


def test_another_revision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"revision is to be one of \(1, 2\), not 3"):
        GridConfig(revision=3)


POSITION = st.tuples(*(st.integers(0, 30) for _ in range(AXES)))


@given(asked=POSITION, stood=POSITION, shift=POSITION, seed=st.integers(0, 99))
def test_scores_depend_on_offsets_and_are_plain_at_offset_zero(
    asked: tuple[int, ...], stood: tuple[int, ...], shift: tuple[int, ...], seed: int
) -> None:
    query, key = torch.randn((2, 1, 1, 1, 16), generator=torch.Generator().manual_seed(seed))

    def score(asked: Sequence[int], stood: Sequence[int]) -> float:
        frequencies = rotary_frequencies(16, 100.0)
        asks, stands = (
            Rotation(torch.tensor(each)[:, None, None], frequencies, torch.float32) for each in (asked, stood)
        )
        return float((asks.turn(query) * stands.turn(key)).sum())

    moved = [start + step for start, step in zip(asked, shift, strict=True)]
    after = [start + step for start, step in zip(stood, shift, strict=True)]
    assert score(moved, after) == pytest.approx(score(asked, stood), abs=1e-3)
    assert score(asked, asked) == pytest.approx(float((query * key).sum()), abs=1e-4)


@pytest.mark.parametrize("head", [8, 10, 16, 64])
def test_every_axis_turns_pairs_of_its_own(head: int) -> None:
    frequencies = rotary_frequencies(head, 100.0)
    assert frequencies.shape == (AXES, head // 2)
    assert (frequencies > 0).sum(0).tolist() == [1] * (head // 2)
    assert all(axis.max() == 1.0 and axis[axis > 0].min() > 0.01 for axis in frequencies)


def test_whoever_writes_a_cell_asks_for_that_cell_of_the_input() -> None:
    """Each token of an output is predicted from where the input's token at its position stands, row ends included."""
    grid = random_grid(Random(0), 3, 4)
    task = random_task(0, demos=1)
    prompt = query_prompt(task, grid)
    asked = CODEC.encode(prompt)
    begin = int(np.flatnonzero(asked.ids == INPUT)[-1])
    given_ids, given_positions = asked.ids[begin + 1 : -1], asked.positions[1:, begin + 1 : -1]
    answer = torch.tensor([[OUTPUT, *given_ids[:-1].tolist()]])
    start = torch.tensor([0, *asked.positions[1:, -1].tolist()])
    positions = torch.zeros((AXES, 1, answer.shape[1]), dtype=torch.long)
    positions[:, 0, 0] = start
    for index in range(1, answer.shape[1]):
        positions[:, 0, index] = next_positions(positions[:, 0, index - 1], answer[0, index - 1])
    assert given_ids[-1] == END
    np.testing.assert_array_equal(next_positions(positions, answer)[1:, 0], given_positions)


def test_labels_give_the_loss(network: GridForCausalLM) -> None:
    ids, positions, _ = padded(CONTEXTS, left=False)
    labels = ids.masked_fill(ids == PAD, -100)
    output = network(input_ids=ids, position_ids=positions, labels=labels)
    own = cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    assert torch.allclose(output.loss, own)
    assert network(input_ids=ids, position_ids=positions).loss is None


def test_the_last_logits_can_be_had_alone(network: GridForCausalLM) -> None:
    ids, positions = tensors(CONTEXTS[0])
    last = network(input_ids=ids, position_ids=positions, logits_to_keep=3).logits
    assert near(last[0], logits_of(CONTEXTS[0], network)[-3:])


def test_hidden_states_are_what_logits_are_made_of(network: GridForCausalLM) -> None:
    ids, _ = tensors(CONTEXTS[0])
    output = network(input_ids=ids, output_hidden_states=True)
    assert len(output.hidden_states) == network.config.num_hidden_layers + 1
    embedded = network.get_input_embeddings()(ids)
    if network.model.whereabouts is not None:
        embedded = embedded + network.model.whereabouts(next_positions(positions_of(ids), ids))
    assert torch.equal(output.hidden_states[0], embedded)
    assert torch.equal(network.get_output_embeddings()(output.hidden_states[-1]), output.logits)
    assert torch.equal(network.get_decoder()(input_ids=ids).last_hidden_state, output.hidden_states[-1])
    assert network(input_ids=ids).hidden_states is None
    check_output_layer(network, torch.tensor(CODEC.symbols))


def test_hidden_states_of_some_tokens_are_those_among_all(network: GridForCausalLM) -> None:
    ids, positions, _ = padded(CONTEXTS, left=False)
    wanted = torch.tensor([[2, 0, 0, 1], [5, 3, 7, 2]])
    everything = network.model(input_ids=ids, position_ids=positions).last_hidden_state
    fed: list[torch.Size] = []
    last = network.model.layers[-1].feed_forward
    with last.register_forward_pre_hook(lambda _, given: fed.append(given[0].shape)):
        some = network.model(input_ids=ids, position_ids=positions, wanted=wanted).last_hidden_state
    assert near(some, everything[wanted[0], wanted[1]])
    assert fed == [(4, network.config.hidden_size)]  # no others were computed


def test_saved_and_read_again(network: GridForCausalLM, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, GridConfig) and config.to_diff_dict() == network.config.to_diff_dict()
    read = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(read, GridForCausalLM) and not read.training
    read.requires_grad_(False)  # training attends in blocks, which rounds otherwise
    assert torch.equal(logits_of(CONTEXTS[0], read), logits_of(CONTEXTS[0], network))
    inner = AutoModel.from_pretrained(tmp_path)
    assert isinstance(inner, GridTransformer)
    own = network.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in inner.state_dict().items())


def generated(network: GridForCausalLM, contexts: Sequence[Encoded], **settings_: object) -> list[list[int]]:
    """What Hugging Face's `generate` writes, greedily, behind contexts padded on the left."""
    ids, _, mask = padded(contexts, left=True)
    written = network.generate(ids, attention_mask=mask, do_sample=False, **{"max_new_tokens": 12, **settings_})
    return [row[ids.shape[1] :] for row in written.tolist()]


def written_by_hand(network: GridForCausalLM, context: Encoded, tokens: int) -> list[int]:
    """The same, everything read anew for every token."""
    ids, _ = tensors(context)
    for _ in range(tokens):
        ids = torch.cat([ids, network(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, len(context.ids) :].tolist()


def test_generate_is_reading_token_by_token(network: GridForCausalLM) -> None:
    for context in CONTEXTS:
        assert generated(network, [context]) == [written_by_hand(network, context, 12)]


def test_generate_with_left_padding(network: GridForCausalLM) -> None:
    assert generated(network, CONTEXTS) == [written_by_hand(network, context, 12) for context in CONTEXTS]


def test_generate_ends_at_the_end(network: GridForCausalLM) -> None:
    assert network.generation_config.eos_token_id == END and network.generation_config.pad_token_id == PAD
    first = written_by_hand(network, CONTEXTS[0], 12)
    last = first[3]
    assert generated(network, [CONTEXTS[0]], eos_token_id=last) == [first[: first.index(last) + 1]]


def test_an_adapter_leaves_the_base_bit_identical(network: GridForCausalLM) -> None:
    model = Model("grid", copy.deepcopy(network), CODEC, grid_tokenizer())
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    ids, positions = tensors(CONTEXTS[0])
    with with_fresh_adapter(model, 4, 4.0, seed=0) as adapted:
        weights = [weight for weight in adapted.parameters() if weight.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=1.0)
        for _ in range(2):  # in the first the B matrices alone move
            adapted(input_ids=ids, position_ids=positions, labels=ids).loss.backward()
            optimizer.step()
        assert not near(logits_of(CONTEXTS[0], model.network), logits_of(CONTEXTS[0], network))
    after = model.network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(logits_of(CONTEXTS[0], model.network), logits_of(CONTEXTS[0], network))


def test_tokens_behind_others_need_their_positions(network: GridForCausalLM) -> None:
    ids, _ = tensors(CONTEXTS[0])
    cache = network(input_ids=ids[:, :8]).past_key_values
    with pytest.raises(ValueError, match=r"need position_ids, \[3, batch, tokens\]"):
        network(input_ids=ids[:, 8:], past_key_values=cache)
    empty = DynamicCache(config=network.config)
    assert torch.equal(network(input_ids=ids, past_key_values=empty).logits, network(input_ids=ids).logits)


def test_embeddings_in_place_of_tokens_are_refused(network: GridForCausalLM) -> None:
    with pytest.raises(ValueError, match="a grid model reads input_ids"):
        network(inputs_embeds=torch.zeros(1, 4, 32))


@pytest.mark.parametrize(("hidden_size", "heads"), [(30, 4), (36, 4), (24, 4), (60, 4), (4, 8)])
def test_heads_that_cannot_be_turned_are_refused(hidden_size: int, heads: int) -> None:
    found = (
        f"a head is to have an even width of 8 or more, not hidden_size={hidden_size} for num_attention_heads={heads}"
    )
    with pytest.raises(ValueError, match=found):
        GridConfig(hidden_size=hidden_size, num_attention_heads=heads)
    settings_ = {"_target_": "arc_seal.models.grid_network.GridConfig"}
    with pytest.raises(InputError, match=found):
        make({**settings_, "hidden_size": hidden_size, "num_attention_heads": heads})


@pytest.mark.parametrize(("name", "millions"), [("3m", 3.4), ("12m", 12.6), ("20m", 21.4)])
def test_sizes_that_are_configured(name: str, millions: float) -> None:
    settings_ = OmegaConf.to_container(OmegaConf.load(conf_dir() / "network" / f"{name}.yaml"))
    assert isinstance(settings_, dict)
    config = make({str(key): value for key, value in settings_.items()})
    with torch.device("meta"):
        network = GridForCausalLM(config)
    assert network.num_parameters() / 1e6 == pytest.approx(millions, abs=0.05)
    assert {path.stem for path in (conf_dir() / "network").glob("*.yaml")} == {"3m", "12m", "20m"}
