"""Boots an image set as a cloud would and says, assertion by assertion, what came of it."""

from pipeline.verify.console import console
from pipeline.verify.report import (
    NOVA_COMMAND_LINE,
    Assertion,
    Firmware,
    Triple,
    VerifyReport,
    WholeDisk,
)
from pipeline.verify.stage import plan, verify

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
