"""Texts of others made fit to be shown: passwords in URLs masked, long ones shortened."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(://[^\s/:@]*):[^\s/]*@")


def without_passwords(text: str) -> str:
    """The text with the password of every URL in it (`//user:password@`) masked."""
    return _PASSWORD.sub(r"\1:****@", text)


def shortened(text: str, longest: int) -> str:
    """At most about `longest` characters, cut between words, with an ellipsis where cut."""
    if len(text) <= longest:
        return text
    head = text[:longest].rsplit(None, 1)[0].rstrip(" ,;:")
    return f"{head} …"
