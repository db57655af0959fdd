"""One libguestfs handle behind a pipe: a script, run by libguestfs.py, never imported.

libguestfs cannot be interrupted while it launches; a process of its own can be ended at any time,
with everything it started. It reads one JSON array a line, [METHOD, ARGUMENT...], and answers
{"value": ...} or {"error": TEXT}. Bytes travel as {"base64": TEXT}.
"""

import base64
import json
import os
import sys
from typing import Any

import guestfs


def pack(value: object) -> object:
    """`value` as JSON can say it."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: pack(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(each) for each in value]
    return value


def unpack(value: Any) -> Any:
    """What `pack` packed, one level deep: an argument."""
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value


def main() -> None:
    """Serve until the input ends."""
    # What libguestfs or its children print must not land among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    handle = guestfs.GuestFS(python_return_dict=True)
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        try:
            answer = {"value": pack(getattr(handle, method)(*map(unpack, arguments)))}
        except (RuntimeError, UnicodeError) as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    handle.close()


if __name__ == "__main__":
    main()
