"""How good the model is on what it is not trained on, measured while it is trained: one forward pass a context."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from arc_seal.arc.task_file import Entry
from arc_seal.models.base import Encoded
from arc_seal.models.batch import collate
from arc_seal.models.grid_transformer import GridForCausalLM
from arc_seal.models.grid_vocabulary import PAD
from arc_seal.pretraining.contexts import encode
from arc_seal.pretraining.pool import Pool
from arc_seal.pretraining.stream import cut


@dataclass(frozen=True, slots=True)
class Score:
    """What was measured over some contexts, on the last output of each.

    Attributes:
        contexts: How many.
        loss: Mean over targets, nats a token.
        accuracy: Share of tokens that are the likeliest given those before them.
        exact: Share of outputs all of whose tokens are, which greedy decoding would get right.
    """

    contexts: int
    loss: float
    accuracy: float
    exact: float


def task_contexts(entries: Sequence[Entry], max_tokens: int) -> list[Encoded]:
    """Contexts of real tasks: all demonstrations, then each test pair. Those longer than `max_tokens` are left out."""
    contexts = []
    for task, solution in entries:
        shown = [(demo.input.array, demo.output.array) for demo in task.demos]
        for query, output in zip(task.queries, solution.outputs if solution else (), strict=False):
            contexts.append(_last_only(encode([*shown, (query.array, output.array)])))
    return [context for context in contexts if len(context.ids) <= max_tokens]


def pool_contexts(pool: Pool, pairs: int, each: int, max_tokens: int, seed: int) -> list[Encoded]:
    """Contexts of a pool's tasks: `each` of every task, of so many pairs, fixed by the seed."""
    rng = np.random.default_rng(seed)
    contexts = []
    for task_id in pool.task_ids:
        numbers = pool.numbers(task_id)
        for _ in range(each if len(numbers) >= pairs else 0):
            chosen = [pool.pair(int(number)) for number in rng.choice(numbers, pairs, replace=False)]
            contexts.append(_last_only(encode(chosen)))
    return [context for context in contexts if len(context.ids) <= max_tokens]


@torch.inference_mode()
def score(network: GridForCausalLM, contexts: Sequence[Encoded], batch_tokens: int) -> Score:
    """Read every context and see how well the last output is predicted."""
    losses: list[Tensor] = []
    right: list[Tensor] = []
    exact = 0
    for group in cut(contexts, batch_tokens):
        batch = collate(group, PAD).to(network.device)
        hidden = network.model(
            input_ids=batch.ids, position_ids=batch.positions, use_cache=False
        ).last_hidden_state  # [batch, tokens, width]
        logits = network.lm_head(hidden[batch.where[0], batch.where[1]]).float()  # [targets, vocabulary]
        losses.append(cross_entropy(logits, batch.labels, reduction="none"))
        hits = logits.argmax(-1) == batch.labels
        right.append(hits)
        wrong = torch.zeros(len(group), device=hits.device).index_add_(0, batch.where[0], (~hits).float())
        exact += int((wrong == 0).sum())
    tokens = torch.cat(right).float()
    return Score(len(contexts), float(torch.cat(losses).mean()), float(tokens.mean()), exact / max(1, len(contexts)))


def _last_only(context: Encoded) -> Encoded:
    return replace(context, target=context.target & (context.positions[0] == context.positions[0, -1]))
