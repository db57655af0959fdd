"""Boots an image as a cloud would and says, assertion by assertion, what came of it."""

from pipeline.core.checks import (
    NOVA_COMMAND_LINE,
    Assertion,
    Firmware,
    Triple,
    VerifyReport,
    WholeDisk,
)
from pipeline.verify.check import plan, verify
from pipeline.verify.interactive import console

__all__ = [
    "NOVA_COMMAND_LINE",
    "Assertion",
    "Firmware",
    "Triple",
    "VerifyReport",
    "WholeDisk",
    "console",
    "plan",
    "verify",
]
