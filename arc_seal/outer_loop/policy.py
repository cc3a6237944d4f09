"""The policy: a model reads a task's demonstrations and writes self-edits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arc_seal.arc.grid import Grid
from arc_seal.arc.task import Task
from arc_seal.inner_loop.job import Progress, Report
from arc_seal.models.base import Completion, Sampling
from arc_seal.models.prompt import Prompt, Turn

if TYPE_CHECKING:
    from arc_seal.models.base import Model

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
    """

    task: Task
    menu: str
    example: str
    schema: dict[str, Any]
    sampling: Sampling

    def run(self, model: "Model", report: Report) -> tuple[Completion, ...]:
        """Write on a loaded model."""
        return model.write(
            _fitting(self, lambda prompt: len(model.codec.encode(prompt).ids)),
            self.schema,
            self.sampling,
            lambda tokens: report(Progress("write", tokens, self.sampling.max_tokens)),
        )


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


def _fitting(job: WriteJob, length: Callable[[Prompt], int]) -> Prompt:
    """The prompt with as many of the first demonstrations as fit."""
    shown = len(job.task.demos)
    while True:
        task = job.task.with_demos(job.task.demos[:shown])
        prompt = self_edit_prompt(task, job.menu, job.example)
        if shown == 1 or length(prompt) <= MAX_PROMPT_TOKENS:
            return prompt
        shown -= 1
