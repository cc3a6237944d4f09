"""Roll-outs as a plain implementation does them: what `rollouts_per_hour.py` measures arc-seal against.

This is what a competent user writes in an afternoon from `transformers.Trainer`, peft and `generate`, and how SEAL's
own code is built (github.com/Continual-Intelligence/SEAL, few-shot/arclib/update_model.py and inference/engine_hf.py).
Nothing is set to be slow on purpose. The choices, one by one:

As in arc-seal, so that the two carry out the same self-edit:
- the network, its tokens (one a cell) and its dtype; it is loaded once and stays in memory (SEAL keeps it, too);
- the training examples, from `self_edit.augment` with the same seed, each of them one pass an epoch;
- rank, alpha and layers of LoRA, batch size, peak learning rate, warm-up share, cosine, weight decay, gradient norm;
- the views to predict in, greedy decoding, the vote, two attempts.

As a plain implementation does it:
- *Leave-one-out contexts*: loss on the last output of a context alone (SEAL's and MIT's; arXiv 2411.07279). One pass
  of arc-seal's learns every output after the first. `passes="examples"`, the default, gives both the same number of
  passes, and the plain one learns fewer target outputs for it; `passes="outputs"` gives the plain one a context for
  every output that arc-seal learns, the demonstrations up to it: the same outputs, each predicted from the same tokens.
- *Padding to the longest example of the data set*, as SEAL's `tokenizer(texts, padding="longest")` over all texts does.
  `padding="batch"` pads to the longest of a batch instead, as a data collator does (MIT's torchtune). SEAL's padding
  carries loss, by an oversight; here it does not. Every batch has an attention mask, as collators give it.
- *Examples of more than `max_tokens` are left out*, as there; arc-seal leaves out their first demonstrations. Few are.
- *Logits of the whole vocabulary* at every token: what `forward(labels=...)` of a causal language model computes.
- *One adapter at a time*: made, trained, saved to disk, taken off; loaded from disk, used for prediction, taken off.
- *One prompt at a time* through `generate` with its key-value cache; the adapter stays unmerged, as
  `PeftModel.from_pretrained` leaves it. SEAL itself predicts with vLLM, which batches prompts and needs a GPU; its
  Hugging Face engine goes one prompt at a time. Writing ends with the end mark or after as many tokens as 30x30 takes
  (`new_tokens`; SEAL's 8192 is far looser). There is no grammar: what is no grid is found out afterwards.
- `Trainer` with its defaults otherwise (fused AdamW, examples shuffled each epoch), and without its reports, logs,
  progress bars and checkpoints, of which SEAL's keeps a log line an update.
"""

import random
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from arc_seal.arc.grid import COLOURS, MAX_SIDE, Grid
from arc_seal.arc.task import Demonstration
from arc_seal.errors import GridError, OverBudget
from arc_seal.inner_loop.job import AdaptJob, Candidate, Report, Result, TrainingRecord, vote
from arc_seal.inner_loop.lora import adapted_modules
from arc_seal.models.generate import model_positions
from arc_seal.models.model import Model
from arc_seal.models.prompt import END, ROW_END, Encoded, demonstrations_prompt, query_prompt
from arc_seal.models.weights import ModelSource
from arc_seal.sandbox.worker import InlineExecutor, Job, Limits, Outcome, R
from arc_seal.self_edit.augment import NamedView, augment, views
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.self_edit.toolbox import Toolbox

Padding = Literal["data_set", "batch"]
Passes = Literal["examples", "outputs"]

MAX_NEW_TOKENS = MAX_SIDE * (MAX_SIDE + 1)
"""Symbols of the largest grid: its cells, its row ends, the end."""

NO_LOSS = -100
"""The label of a token that Hugging Face's losses leave out."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What a plain implementation may do in more ways than one; see the module.

    Attributes:
        padding: How long a batch is.
        passes: What one pass is made over.
        new_tokens: Most tokens that are written for a grid.
    """

    padding: Padding = "data_set"
    passes: Passes = "examples"
    new_tokens: int = MAX_NEW_TOKENS


class PlainExecutor:
    """Runs arc-seal's own jobs the plain way, in this process.

    Args:
        source: Where the model comes from; it is loaded once.
        choices: What a plain implementation may do in two ways.
    """

    workers = 1

    def __init__(self, source: ModelSource, choices: "Choices") -> None:
        self._inline = InlineExecutor(source, Limits(timeout_s=float("inf")))
        self._choices = choices

    def start(self) -> None:
        """Nothing to begin early."""

    def run(self, job: Job[R], report: Report, timeout_s: float | None = None) -> Outcome[R]:
        """Run an `AdaptJob` to its outcome.

        Raises:
            TypeError: On any other job.
        """
        wanted: Any = job
        if not isinstance(wanted, AdaptJob):
            raise TypeError(f"the plain baseline adapts and predicts; it knows no {type(job).__name__}")
        plain: Job[Any] = PlainJob(wanted, self._choices)
        return self._inline.run(plain, report, timeout_s)

    def close(self) -> None:
        """Let the model go."""
        self._inline.close()


@dataclass(frozen=True, slots=True)
class PlainJob:
    """A job of arc-seal's, to be done the plain way.

    Attributes:
        job: With a self-edit, or without one to predict in context. Adapters by LoRA only, from the model as it is.
        choices: What a plain implementation may do in two ways.
    """

    job: AdaptJob
    choices: Choices

    def run(self, model: Model, report: Report) -> Result:
        """Adapt, predict every query in every view, vote.

        Raises:
            OverBudget: When no example is short enough.
        """
        seconds: dict[str, float] = {}
        with tempfile.TemporaryDirectory(prefix="plain-") as folder:
            record = None
            if self.job.self_edit is not None:
                with _timed(seconds, "train"):
                    record = _train(self.job, self.job.self_edit, model, Path(folder), self.choices)
            with _timed(seconds, "predict"):
                candidates = _predict(self.job, model, Path(folder), self.choices)
        return Result(vote(candidates, len(self.job.task.queries)), candidates, record, seconds)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - start


def _train(job: AdaptJob, edit: SelfEdit, model: Model, folder: Path, choices: Choices) -> TrainingRecord:
    """Train an adapter on the self-edit's examples and save it in the folder."""
    made, skipped = augment(job.task, edit, _toolbox(job), random.Random(f"{job.seed} augment"))
    wanted = [context for example in made for context in _contexts(example, choices.passes)]
    encoded = [_encode(model, context, edit.training.loss_on == "all") for context in wanted]
    examples = [each for each in encoded if len(each.ids) <= job.training.max_tokens]
    if not examples:
        raise OverBudget(f"no training example fits into {job.training.max_tokens} tokens")
    longest = max(len(example.ids) for example in examples)
    counts = _Counts()
    with _adapter(model.network, job, edit) as adapted:
        trainer = Trainer(
            model=adapted,
            args=_arguments(job, edit, model.network, folder),
            train_dataset=[_features(example) for example in examples],
            data_collator=partial(
                _collate,
                length=longest if choices.padding == "data_set" else None,
                pad=_pad(model.network),
                counts=counts,
            ),
        )
        trainer.remove_callback(PrinterCallback)
        trained = trainer.train()
        adapted.save_pretrained(str(folder))
    epochs = edit.training.epochs
    return TrainingRecord(
        examples=len(examples),
        skipped=skipped + len(encoded) - len(examples),
        updates=trained.global_step,
        tokens=epochs * sum(len(example.ids) for example in examples),
        targets=epochs * sum(int(example.target.sum()) for example in examples),
        padding=1 - counts.tokens / counts.computed,
        losses=(trained.training_loss,),
    )


@dataclass(slots=True)
class _Counts:
    """Tokens that were computed, and those of them that were not padding."""

    tokens: int = 0
    computed: int = 0


def _toolbox(job: AdaptJob) -> Toolbox:
    return Toolbox.load([Path(folder) for folder in job.toolbox])


def _contexts(example: tuple[Demonstration, ...], passes: Passes) -> Sequence[tuple[Demonstration, ...]]:
    """The contexts of one example; each is to teach its last output."""
    if passes == "examples" or len(example) < 2:
        return [example]
    return [example[:last] for last in range(2, len(example) + 1)]


def _encode(model: Model, context: tuple[Demonstration, ...], target_all: bool) -> Encoded:
    return model.codec.encode(demonstrations_prompt(context, "last"), target_all=target_all)


@contextmanager
def _adapter(network: PreTrainedModel, job: AdaptJob, edit: SelfEdit) -> Iterator[PeftModel]:
    """A fresh adapter on the network; taken off again at the end."""
    rank = edit.training.lora_rank
    config = LoraConfig(
        r=rank,
        lora_alpha=job.training.lora_alpha or rank,  # type: ignore[arg-type]  # peft takes parts of one, too
        target_modules=adapted_modules(network, job.training),
        task_type="CAUSAL_LM",
    )
    with _quiet():
        torch.manual_seed(job.seed)
        adapted = get_peft_model(network, config)
    with _taken_off(network, adapted):
        yield adapted


@contextmanager
def _loaded(network: PreTrainedModel, folder: Path) -> Iterator[PreTrainedModel | PeftModel]:
    """The network with the adapter that is in a folder, or as it is where there is none."""
    if not (folder / "adapter_config.json").is_file():
        yield network
        return
    with _quiet():
        adapted = PeftModel.from_pretrained(network, folder).eval()
    with _taken_off(network, adapted):
        yield adapted


@contextmanager
def _taken_off(network: PreTrainedModel, adapted: Any) -> Iterator[None]:
    try:
        yield
    finally:
        adapted.unload()
        network.eval()
        if hasattr(network, "peft_config"):  # peft leaves it there and would warn of a second adapter next time
            del network.peft_config


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers things by their old names
        yield


def _arguments(job: AdaptJob, edit: SelfEdit, network: PreTrainedModel, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=edit.training.batch_size,
        learning_rate=edit.training.learning_rate,
        num_train_epochs=edit.training.epochs,
        lr_scheduler_type="cosine",
        warmup_steps=job.training.warmup_share,  # below 1 it is a share
        weight_decay=0.0,
        max_grad_norm=job.training.max_gradient_norm,
        seed=job.seed,
        use_cpu=network.device.type == "cpu",
        remove_unused_columns=False,
        label_names=["labels"],
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _features(example: Encoded) -> dict[str, Any]:
    labels = np.where(example.target, example.ids, NO_LOSS)
    return {"input_ids": example.ids, "labels": labels, "positions": example.positions}


def _collate(features: Sequence[dict[str, Any]], *, length: int | None, pad: int, counts: _Counts) -> dict[str, Tensor]:
    """A batch padded on the right to `length`, or to its own longest example."""
    longest = length or max(len(each["input_ids"]) for each in features)
    batch = {
        "input_ids": _padded([each["input_ids"] for each in features], longest, pad),
        "attention_mask": _padded([np.ones_like(each["input_ids"]) for each in features], longest, 0),
        "labels": _padded([each["labels"] for each in features], longest, NO_LOSS),
    }
    axes = range(len(features[0]["positions"]))
    positions = torch.stack([_padded([each["positions"][axis] for each in features], longest, 0) for axis in axes])
    batch["position_ids"] = model_positions(positions)
    counts.tokens += int(batch["attention_mask"].sum())
    counts.computed += batch["input_ids"].numel()
    return batch


def _padded(rows: Sequence[np.ndarray], longest: int, fill: int) -> Tensor:
    """[batch, longest]."""
    return torch.from_numpy(np.stack([np.pad(row, (0, longest - len(row)), constant_values=fill) for row in rows]))


def _pad(network: PreTrainedModel) -> int:
    pad = network.config.get_text_config().pad_token_id
    return 0 if pad is None else int(pad)


def _predict(job: AdaptJob, model: Model, folder: Path, choices: Choices) -> tuple[Candidate, ...]:
    """Candidates of all queries, one view after another."""
    chosen = views(job.task, job.self_edit, _toolbox(job), random.Random(f"{job.seed} views"), job.decode.views)
    with _loaded(model.network, folder) as network, torch.inference_mode():
        return tuple(
            Candidate(query, view.name, _predict_view(job, model, network, view, query, choices.new_tokens), 0.0)
            for query in range(len(job.task.queries))
            for view in chosen
        )


def _predict_view(
    job: AdaptJob, model: Model, network: PreTrainedModel | PeftModel, view: NamedView, query: int, new_tokens: int
) -> Grid | None:
    """What one view predicts, in the task's own frame; None when it is no grid."""
    prompt = torch.from_numpy(_prompt(job, model, view, query).ids)[None].to(model.network.device)
    written = network.generate(  # type: ignore[operator]  # an adapted one has it from the network
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=model.codec.symbols[END],
        pad_token_id=_pad(model.network),
    )
    grid = read_grid(written[0, prompt.shape[1] :].tolist(), model.codec.symbols)
    try:
        return None if grid is None else view.invert(grid)
    except GridError:
        return None


def _prompt(job: AdaptJob, model: Model, view: NamedView, query: int) -> Encoded:
    """The query behind as many of the last demonstrations as the length allows, at least one."""
    task = view.task
    for first in range(len(task.demos)):
        fewer = task.with_demos(task.demos[first:])
        encoded = model.codec.encode(query_prompt(fewer, task.queries[query]))
        if len(encoded.ids) <= job.training.max_tokens:
            break
    return encoded


def read_grid(tokens: Sequence[int], symbols: Sequence[int]) -> Grid | None:
    """The grid that written tokens stand for; None when they stand for none.

    Args:
        tokens: As they were written, the end mark and what may stand behind it included.
        symbols: The model's.
    """
    colours = {token: colour for colour, token in enumerate(symbols[:COLOURS])}
    rows: list[list[int]] = [[]]
    for token in tokens:
        if token == symbols[END]:
            break
        if token == symbols[ROW_END]:
            rows.append([])
        elif token in colours:
            rows[-1].append(colours[token])
        else:
            return None
    else:
        return None  # it never ended
    try:
        return Grid.from_rows(rows)
    except GridError:
        return None
