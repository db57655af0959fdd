"""Make images and archives of a tree as a program of its own, inside the guest's namespace.

python -m pipeline.convert.ext4 <request.json: what `request.answer` takes; the answer is printed as
JSON. Where it cannot be done the answer is {"error": ...}, the record of the error, and the
program's status still 0: whoever asks reads the answer.
"""

from __future__ import annotations

import gc
import json
import sys

from pipeline.convert.ext4.request import answer
from pipeline.core.errors import PipelineError


def main() -> None:
    """Answer one request."""
    # Some hundred thousand records that all live to the end: looking for cycles finds none.
    gc.disable()
    try:
        result = answer(json.load(sys.stdin))
    except PipelineError as error:
        result = {"error": error.record()}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
