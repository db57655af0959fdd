"""The words of the command line, a module a field; tasks.py gathers them for Invoke.

These modules parse words and print answers; the rest of pipeline/ does the work, and is imported
inside the tasks so that a word that needs little starts quickly.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from invoke.tasks import task

from pipeline.core.errors import InputError

command = partial(task, auto_shortflags=False)
"""Invoke's decorator without the one-letter options it makes up: `-h` must stay a call for help."""

BUILT = "built"
"""Key in Invoke's configuration: names of the builds of this run, in order."""

PLANNED = "planned"
"""Key of those whose plan alone this run printed: name -> whether they would stay the same."""

# Default of an option that may be repeated: Invoke takes an option's kind from its default, and
# with a tuple it would take a word for its letters. It adds to copies only.
MANY: list[str] = []

HELP = {
    "recipe": "name of a recipe, see `invoke recipes`",
    "json": "print the result as JSON on standard output",
    "quiet": "show warnings and errors only",
    "verbose": "show every external program as it starts",
    "debug": "show a traceback with an error",
    "dry_run": "print what would be done; change nothing",
    "accelerator": "kvm or tcg in place of the measured one",
}


def help_for(*names: str, **own: str) -> dict[str, str]:
    """Help texts of options: the common ones by name, a task's own as given."""
    return {name: HELP[name] for name in names} | own


def variables(words: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE words as a mapping; InputError for any other form."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise InputError(
                "use", word, why="it is not of the form NAME=VALUE", next_step="Write NAME=VALUE"
            )
        pairs[name] = value
    return pairs
