"""The words of the command line, a module a field; tasks.py gathers them for Invoke.

These modules parse words and print answers; the rest of pipeline/ does the work, and is imported
inside the tasks so that a word that needs little starts quickly.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.tasks import task

from pipeline.core.errors import InputError
from pipeline.core.resources import COMMAND

if TYPE_CHECKING:
    from pipeline.core.request import PackageSources

command = partial(task, auto_shortflags=False)
"""Invoke's decorator without the one-letter options it makes up: `-h` must stay a call for help."""

BUILT = "built"
"""Key in Invoke's configuration: names of the builds of this run, in order."""

PLANNED = "planned"
"""Key of those whose plan alone this run printed: name -> whether they would stay the same."""

# Default of an option that may be repeated: Invoke takes an option's kind from its default, and
# with a tuple it would take a word for its letters. It adds to copies only.
MANY: list[str] = []

_DIGITS = 10  # of an option's number: clouds keep such numbers in 32 bits

HELP = {
    "recipe": f"name of a recipe, see `{COMMAND} recipes`",
    "json": "print the result as JSON on standard output",
    "quiet": "show warnings and errors only",
    "verbose": "show every external program as it starts",
    "debug": "show a traceback with an error",
    "dry_run": "print what would be done; change nothing",
    "accelerator": "kvm or tcg in place of the measured one",
}


PACKAGE_SOURCES = {
    "mirror": "URL of the distribution's archive of packages, in place of its public ones; may be"
    " repeated, tried in order",
    "repository": "a repository in place of the recipe's: [NAME=]URL, of Debian's kind with suite"
    " and components after it; may be repeated",
    "key": "file of the OpenPGP keys that sign the repositories; may be repeated",
    "proxy": "URL of the proxy through which packages are fetched",
}
"""Help texts of the options that `package_sources` reads."""


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


def package_sources(
    mirrors: Iterable[str], repositories: Iterable[str], keys: Iterable[str], proxy: str
) -> PackageSources:
    """Where packages come from, by a command's options."""
    from pipeline.core.request import PackageSources

    files = tuple(Path(key).absolute() for key in keys)
    return PackageSources((*mirrors,), (*repositories,), files, proxy)


def whole_number(option: str, word: str, unit: str = "", *, least: int = 0) -> int | None:
    """An option's word as a number; None for "". InputError for anything else, or for too few."""
    if not word:
        return None
    if not (word.isascii() and word.isdecimal() and len(word) < _DIGITS and int(word) >= least):
        what = f"a whole number of {unit}" if unit else "a whole number"
        raise InputError(
            f"use the option {option}",
            word,
            why=f"it is not {what}, {least} or more",
            next_step=f"Write it in digits alone, such as {option} {max(least, 2)}",
        )
    return int(word)
