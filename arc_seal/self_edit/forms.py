"""The forms in which a model may write self-edits, chosen by `self_edit=NAME` in the configuration."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from arc_seal.errors import InputError
from arc_seal.self_edit.paper import PaperBounds, PaperSchema
from arc_seal.self_edit.schema import Bounds, Schema, SelfEditSchema
from arc_seal.self_edit.toolbox import Toolbox

_BOUNDS: TypeAdapter[Bounds | PaperBounds] = TypeAdapter(Annotated[Bounds | PaperBounds, Field(discriminator="form")])


def make_schema(bounds: Mapping[str, Any], toolbox: Toolbox) -> Schema:
    """The schema that `self_edit.bounds` of the configuration asks for.

    Args:
        bounds: As in conf/self_edit/; `form` says which form.
        toolbox: The tools that may be called; the paper's form names its own.

    Raises:
        InputError: On a bound that is unknown or makes no sense.
    """
    try:
        read = _BOUNDS.validate_python(bounds)
    except ValidationError as error:
        raise _explained(error) from None
    return SelfEditSchema(toolbox, read) if isinstance(read, Bounds) else PaperSchema(read)


def _explained(error: ValidationError) -> InputError:
    fault = error.errors(include_url=False)[0]
    place = ".".join(map(str, ("self_edit", "bounds", *fault["loc"][1:])))
    if fault["type"] == "extra_forbidden":
        return InputError("configuration", place, "a setting that there is", "an unknown one")
    return InputError("configuration", place, fault["msg"].removeprefix("Input should be "), repr(fault["input"]))
