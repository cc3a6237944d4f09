"""The policy: a model reads a task's demonstrations and writes self-edits."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.inner_loop.job import FinetuneSettings, Progress, Report, TrainingRecord
from arc_seal.models.base import Completion, Sampling
from arc_seal.models.prompt import Prompt, Turn
from arc_seal.outer_loop.lesson import Lesson, presentations

if TYPE_CHECKING:
    from arc_seal.models.base import Encoded, Model

MAX_PROMPT_TOKENS = 4096
"""Demonstrations are left out of the policy's prompt beyond this; the first always stays."""


@dataclass(frozen=True)
class WriteJob:
    """Write self-edits for one task.

    Attributes:
        task: The task; the policy is shown its demonstrations alone.
        menu: What may be written, for the prompt.
        example: A self-edit in its canonical form, which shows the model what one looks like.
        schema: JSON schema that every completion is held to.
        sampling: How many to write, and how.
        policy: Folder of the adapter to write with; None writes with the model as it is.
    """

    task: Task
    menu: str
    example: str
    schema: dict[str, Any]
    sampling: Sampling
    policy: str | None = None

    def run(self, model: "Model", report: Report) -> tuple[Completion, ...]:
        """Write on a loaded model.

        Raises:
            InputError: When the policy's folder holds no adapter for this model.
        """
        prompt = _fitting(self.task, self.menu, self.example, model)
        with _wearing(self.policy, model):
            return model.write(
                prompt,
                self.schema,
                self.sampling,
                lambda tokens: report(Progress("write", tokens, self.sampling.max_tokens)),
            )


@dataclass(frozen=True)
class FinetuneJob:
    """Fine-tune a policy on lessons: self-edit prompt in, self-edit out, loss on the self-edit alone.

    Attributes:
        lessons: At least one.
        menu: What may be written, as the policy was asked.
        example: As the policy was asked.
        schema: JSON schema that the policy writes under.
        settings: How.
        seed: Fixes the adapter's first weights and the order of the lessons.
        folder: Where the adapter is kept, in peft's format; written whole or not at all.
    """

    lessons: tuple[Lesson, ...]
    menu: str
    example: str
    schema: dict[str, Any]
    settings: FinetuneSettings
    seed: int
    folder: str

    def run(self, model: "Model", report: Report) -> TrainingRecord:
        """Fine-tune on a loaded model, which is left as it was.

        Raises:
            Diverged: As soon as a loss is not finite.
        """
        from arc_seal.inner_loop.finetune import finetune  # the first use of torch on this path

        shown = presentations(self.lessons, self.settings.presentations, self.seed)
        examples = [self._example(lesson, model) for lesson in shown]
        return finetune(examples, self.settings, self.seed, Path(self.folder), model, report)

    def _example(self, lesson: Lesson, model: "Model") -> "Encoded":
        asked = _fitting(lesson.task, self.menu, self.example, model)
        encoded = model.codec.encode(Prompt((*asked.turns, Turn("assistant", (lesson.self_edit,), target=True))))
        return model.bound(encoded, self.schema) if self.settings.targets == "choices" else encoded


def self_edit_prompt(task: Task, menu: str, example: str) -> Prompt:
    """What the policy is asked: the demonstrations, the menu, the form.

    Queries are not shown: a self-edit is about how to learn from the demonstrations.
    """
    content: list[str | Grid] = ["Solved examples of a grid puzzle:\n"]
    for number, demo in enumerate(task.demos, start=1):
        content += [f"input {number}\n", demo.input, f"\noutput {number}\n", demo.output, "\n"]
    content.append(
        "\nYou will be trained on copies of these examples that tools have changed, then solve a new input. "
        "Choose the tools that keep the puzzle's rule intact, and how to train.\n"
        f"{menu}\nAnswer with one JSON object, such as\n{example}"
    )
    return Prompt((Turn("user", tuple(content)),))


def _wearing(policy: str | None, model: "Model") -> AbstractContextManager[None]:
    if policy is None:
        return nullcontext()
    from arc_seal.inner_loop.adapter import worn  # the first use of torch on this path

    return worn(model, Path(policy))


def _fitting(task: Task, menu: str, example: str, model: "Model") -> Prompt:
    """The prompt with as many of the first demonstrations as fit."""
    shown = len(task.demos)
    while True:
        prompt = self_edit_prompt(task.with_demos(task.demos[:shown]), menu, example)
        if shown == 1 or len(model.codec.encode(prompt).ids) <= MAX_PROMPT_TOKENS:
            return prompt
        shown -= 1
