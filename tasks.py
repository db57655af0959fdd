"""The front door: `invoke --list` shows what can be done, `invoke --help TASK` how."""

import sys

from invoke.collection import Collection

# Invoke forbids compiled modules for every run; without them each command compiles the whole
# pipeline anew. Whoever said so to Python itself (-B, PYTHONDONTWRITEBYTECODE) is still obeyed.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

from pipeline.cli.build import build, console, recipes, verify
from pipeline.cli.develop import benchmark, check, docs, faults, format_, test
from pipeline.cli.look import diff, doctor, list_, prune, report, show
from pipeline.cli.upload import unbundle, upload

namespace = Collection(
    build,
    upload,
    verify,
    console,
    unbundle,
    recipes,
    doctor,
    list_,
    show,
    diff,
    prune,
    report,
    docs,
    test,
    format_,
    check,
    benchmark,
    faults,
)
