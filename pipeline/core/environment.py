"""Values that stand in the environment, where neither a recipe nor a build keeps them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class FromEnvironment(BaseModel):
    """A secret variable: its value comes from an environment variable and is never saved."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    environment: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")]
