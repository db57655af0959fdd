"""What went into a build, by digest, as its provenance lists it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Material(BaseModel):
    """One thing that a build was made from: a file of an install tree, a package, a given disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="its name, without a directory of this host")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of all its bytes")
    uri: str = Field("", description="where it was had, without passwords; empty for a local file")
    note: str = Field("", description="what else must be known to compare the digest")
