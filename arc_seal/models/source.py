"""Where models come from. Sources load no torch until they load a model, so whoever only names one never does."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arc_seal.models.chat import ChatModel
    from arc_seal.models.grid_model import GridModel
    from arc_seal.models.scripted import ScriptedModel


@dataclass(frozen=True, slots=True)
class ChatSource:
    """A chat model; documented in conf/model/.

    Attributes:
        name: What results call it.
        location: Hub id, local folder, `.gguf` file, or `package:NAME/FILE.gguf`.
        device: `auto` (cuda, then mps, then cpu) or a torch device.
        dtype: `auto` (bfloat16 on cuda, else float32) or a torch dtype's name.
        system: What the system says; None leaves it to the chat template.
    """

    name: str
    location: str
    device: str = "auto"
    dtype: str = "auto"
    system: str | None = None

    def load(self) -> "ChatModel":
        """Load tokenizer and weights.

        Raises:
            ModelError: When they cannot be found, read or used.
        """
        from arc_seal.models.chat import load_chat_model

        return load_chat_model(self)


@dataclass(frozen=True, slots=True)
class GridSource:
    """A grid model; documented in conf/model/grid.yaml.

    Attributes:
        name: What results call it.
        location: Local folder, hub id, or `package:NAME/FOLDER`.
        device: `auto` (cuda, then mps, then cpu) or a torch device.
        dtype: `auto` (bfloat16 on cuda, else float32) or a torch dtype's name.
    """

    name: str
    location: str
    device: str = "auto"
    dtype: str = "auto"

    def load(self) -> "GridModel":
        """Load the weights.

        Raises:
            ModelError: When they cannot be found, read or used.
        """
        from arc_seal.models.grid_model import load_grid_model

        return load_grid_model(self)


@dataclass(frozen=True, slots=True)
class ScriptedSource:
    """A `ScriptedModel`, for tests.

    Attributes:
        completions: What it writes, in turn; the last is repeated. Empty: it really samples.
        seed: Fixes the network's weights.
    """

    completions: tuple[str, ...] = ()
    seed: int = 0

    def load(self) -> "ScriptedModel":
        """Make the model."""
        from arc_seal.models.scripted import ScriptedModel

        return ScriptedModel(self.completions, self.seed)
