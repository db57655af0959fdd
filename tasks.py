"""The front door: `invoke --list` shows what can be done, `invoke --help TASK` how."""

from invoke.collection import Collection

from pipeline.commands.build import build, console, recipes, verify
from pipeline.commands.develop import benchmark, check, docs, faults, format_, test
from pipeline.commands.look import diff, doctor, list_, prune, report, show
from pipeline.commands.upload import unbundle, upload

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
