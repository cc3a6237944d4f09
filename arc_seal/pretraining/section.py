"""What every section of conf/pretrain.yaml is when it has been read."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Settings within their bounds; a stranger among them is refused, and none changes afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
