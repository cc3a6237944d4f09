"""Tasks, self-edits and a byte-level grammar for the tests of what a model may decide."""

import json
from pathlib import Path
from random import Random
from typing import Any

import llguidance
import numpy as np
from hypothesis import strategies as st

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Demonstration, Task
from arc_seal.files import tools_dir
from arc_seal.self_edit.edit import SelfEdit, ToolCall, Training
from arc_seal.self_edit.toolbox import Toolbox

TOOLBOX = Toolbox.load([tools_dir()])

END = 256
"""The token after the 256 bytes."""


def random_grid(rng: Random, height: int, width: int) -> Grid:
    return Grid(height, width, bytes(rng.randrange(10) for _ in range(height * width)))


def random_task(seed: int, demos: int = 3, queries: int = 1, sides: tuple[int, ...] = (3, 4)) -> Task:
    rng = Random(seed)

    def grid() -> Grid:
        return random_grid(rng, rng.choice(sides), rng.choice(sides))

    pairs = tuple(Demonstration(grid(), grid()) for _ in range(demos))
    return Task(f"task{seed}", pairs, tuple(grid() for _ in range(queries)))


@st.composite
def tasks(draw: st.DrawFn, sides: tuple[int, ...] = (1, 2, 3, 7, 15, 16, 30)) -> Task:
    """Tasks with grids of every size that matters: the smallest, the largest, and half of the largest."""
    demos, queries = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    return random_task(
        draw(st.integers(0, 2**32)), demos, queries, tuple(draw(st.lists(st.sampled_from(sides), min_size=1)))
    )


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """JSON values of a plain schema, such as a tool's signature makes."""
    if "anyOf" in schema:
        return st.one_of(*map(values, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    match schema["type"]:
        case "object":
            return st.fixed_dictionaries({name: values(kind) for name, kind in schema["properties"].items()})
        case "array":
            return st.lists(values(schema["items"]), min_size=schema.get("minItems", 0), max_size=schema["maxItems"])
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            low, high = (round(schema[bound] / schema["multipleOf"]) for bound in ("minimum", "maximum"))
            return st.integers(low, high).map(lambda count: round(count * schema["multipleOf"], 10))
        case other:
            raise AssertionError(f"no strategy for {other}")


def calls(name: str) -> st.SearchStrategy[ToolCall]:
    """Calls of one tool, from its signature alone."""
    tool = next(tool for tool in TOOLBOX.tools if tool.name == name)
    return values(tool.schema).map(ToolCall.model_validate)


def edit(*tools: ToolCall, max_examples: int = 16, **training: Any) -> SelfEdit:
    settings = {"loss_on": "outputs", "learning_rate": 0.0001, "epochs": 1, "batch_size": 1, "lora_rank": 8, **training}
    return SelfEdit(tools=tools, training=Training(max_examples=max_examples, **settings))


class _Bytes:
    eos_token_id, bos_token_id, special_token_ids = END, None, (END,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


_TOKENIZER = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()))


class ByteGrammar:
    """The grammar of a JSON schema over single bytes, compiled as the models do."""

    def __init__(self, schema: dict[str, Any]) -> None:
        compiler = llguidance.JsonCompiler(separators=(",", ":"), whitespace_flexible=False)
        self._grammar = compiler.compile(json.dumps(schema))

    def accepts(self, text: str) -> bool:
        matcher, data = self._matcher(), list(text.encode())
        return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()

    def sample(self, rng: Random) -> str:
        """A random walk over the allowed bytes."""
        matcher, written = self._matcher(), bytearray()
        while True:
            bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            token = rng.choice(np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist())
            matcher.consume_token(token)
            if token == END:
                return written.decode()
            written.append(token)

    def _matcher(self) -> llguidance.LLMatcher:
        matcher = llguidance.LLMatcher(_TOKENIZER, self._grammar)
        assert not matcher.is_error(), matcher.get_error()
        return matcher


def write_tool(folder: Path, name: str, source: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.py"
    file.write_text(source)
    return file
