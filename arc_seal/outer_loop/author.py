"""Who writes self-edits, in which form, and how they are tried: the settings of all roll-outs."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from arc_seal.errors import InputError, InvalidSelfEdit
from arc_seal.files import tools_dir
from arc_seal.inner_loop.job import DecodeSettings, TrainingSettings
from arc_seal.self_edit.edit import SelfEdit
from arc_seal.self_edit.schema import ChoiceSchema, Schema, make_schema
from arc_seal.self_edit.toolbox import Toolbox
from arc_seal.settings import Settings


class SelfEditSettings(Settings):
    """conf/self_edit/; each setting is described in default.yaml there. The bounds are checked by `make_schema`."""

    by_hand: str | None = Field(alias="json")
    policy: str | None
    example: str
    candidates: tuple[str, ...]
    difficulty: bool
    bounds: dict[str, Any]


class RolloutSettings(Settings):
    """How self-edits are written and tried: conf/rollouts/ and the groups, each described there.

    `model` and `executor` are checked by what is made of them.
    """

    temperature: float = Field(ge=0)
    max_tokens: int = Field(ge=1)
    max_resamples: int = Field(ge=0)
    max_training_tokens: int = Field(ge=1)
    toolbox: tuple[str, ...]
    folds: int = Field(ge=1)
    model: dict[str, Any]
    executor: dict[str, Any]
    ttt: TrainingSettings
    decode: DecodeSettings
    self_edit: SelfEditSettings

    @property
    def toolbox_folders(self) -> tuple[str, ...]:
        """arc-seal's own toolbox, then the folders named in the configuration."""
        return (str(tools_dir()), *(str(Path(folder).expanduser().absolute()) for folder in self.toolbox))

    @property
    def model_name(self) -> str:
        """What results call the model."""
        return str(self.model.get("name") or self.model["_target_"])

    @cached_property
    def edit_schema(self) -> Schema:
        """What a self-edit may say; InputError on a tool or a bound that makes no sense."""
        return make_schema(self.self_edit.bounds, Toolbox.load(self.toolbox_folders))

    @cached_property
    def edit_example(self) -> str:
        """The example self-edit in the form that the model is to write; InputError when it is not valid."""
        return self.edit_schema.canonical(self.given(self.self_edit.example, "self_edit.example"))

    @property
    def candidates(self) -> list[SelfEdit]:
        """The self-edits of `self_edit.candidates`; InputError where there are none, or one is not valid."""
        texts = self.self_edit.candidates
        if not texts:
            raise InputError("self_edit.candidates", "", "at least one self-edit to try", "none")
        return [self.given(text, f"self_edit.candidates[{number}]") for number, text in enumerate(texts)]

    def check(self, *, policy_writes: bool = False) -> None:
        """Refuse tools, bounds and an example that make no sense before anything is loaded or made.

        InputError on the first fault, such as a self-edit by hand where the policy is to write its own.
        """
        if policy_writes and self.self_edit.by_hand is not None:
            raise InputError("self_edit.json", "", "null, for the policy writes its own", "a self-edit given by hand")
        self.edit_schema, self.edit_example  # noqa: B018

    def given(self, text: str, setting: str, *, in_any_form: bool = False) -> SelfEdit:
        """A self-edit that a setting gives as JSON; InputError when it is not valid.

        With `in_any_form` it may be in the default form, which can say more, where the form in use is that of choices.
        """
        schema = self.edit_schema
        if in_any_form and isinstance(schema, ChoiceSchema) and '"tools"' in text:
            schema = make_schema({"form": "default"}, Toolbox.load(self.toolbox_folders))
        try:
            return schema.parse(text)
        except InvalidSelfEdit as error:
            raise InputError(setting, "", "a valid self-edit", str(error)) from None


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes self-edits, and which weights they are tried on."""

    kind: Literal["policy", "random", "hand", "none"]  # the model, chance, the user, or nobody: in context
    seed: int  # everything that is drawn depends on it
    by_hand: tuple[SelfEdit, ...] = ()  # self-edits that were given, for the samples in turn
    policy: str | None = None  # folder of the adapter that the model writes with; None writes with the model as it is
    adapt_from: str | None = None  # folder of the adapter that the inner loop begins from; None: the model as it is
