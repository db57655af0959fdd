"""Images and archives of layered trees, made where the guest's ids are mapped.

`make_image` and `make_archive` start this module again, as a program of its own, with the ids of
the guest; it reads one JSON object on standard input and writes to a file that is passed open.
"""
from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

from pipeline.convert.ext4.geometry import Parameters
from pipeline.convert.ext4.tree import scan
from pipeline.convert.ext4.writer import Written, write_image
from pipeline.host.context import Tools
from pipeline.host.isolation import Isolation, run_mapped

_TOP = Path(__file__).resolve().parents[3]


def make_image(isolation: Isolation, layers: Sequence[Path], target: Path, parameters: Parameters, *, tools: Tools) -> Written:
    with target.open("xb") as file:
        request = {"layers": [str(p) for p in layers], "fd": file.fileno(), "parameters": asdict(parameters)}
        done = run_mapped(isolation, [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(_TOP)!r}); from pipeline.convert.ext4.make import main; main()"],
            tools=tools, timeout=3600, input=json.dumps(request, default=str).encode(), pass_fds=[file.fileno()], attempted="write the file system")
    return Written(**json.loads(done.stdout))


def make_archive(isolation: Isolation, layers: Sequence[Path], target: Path, *, epoch: int, tools: Tools) -> None:
    raise NotImplementedError


def main() -> None:
    request = json.load(sys.stdin)
    p = request["parameters"]
    p["uuid"] = UUID(p["uuid"]); p["hash_seed"] = UUID(p["hash_seed"])
    written = write_image(scan([Path(p) for p in request["layers"]]), request["fd"], Parameters(**p))
    print(json.dumps(asdict(written)))
