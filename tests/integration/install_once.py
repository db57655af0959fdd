"""Runs one install of the stand-in in a process of its own, for tests that kill it.

usage: install_once.py RECIPES NAME PLACE
    RECIPES: a recipes file. NAME: its recipe. PLACE: a directory; the disk goes to PLACE/disk.img,
    the evidence to PLACE/evidence and the outcome, as JSON, to standard output.
"""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path

from pipeline.builders.installer import Limits, install, obtain
from pipeline.builders.installer.answers import render
from pipeline.builders.recipes import load_recipes
from pipeline.core.errors import PipelineError
from pipeline.core.events import QuietProgress
from pipeline.host import hypervisor
from pipeline.host.context import Tools
from pipeline.host.programs import Runner


def main(recipes: Path, name: str, place: Path) -> None:
    """Install and say how it went."""
    recipe = load_recipes(recipes)[name]
    scratch = place / "scratch"
    scratch.mkdir()
    outcome = {"error": "", "text": ""}
    with Runner(place / "commands.log") as runner:
        tools = Tools(runner, QuietProgress(), scratch)
        try:
            tree = obtain(recipe, tools)
            answers = render(
                recipe,
                nonce=secrets.token_hex(16),
                overrides={},
                builtins=tree.variables,
            )
            install(
                recipe,
                answers,
                tree,
                place / "disk.img",
                hypervisor.acceleration(tools),
                tools,
                evidence=place / "evidence",
                limits=Limits(wall=recipe.install_minutes * 60, quiet=recipe.quiet_minutes * 60),
            )
        except PipelineError as error:
            outcome = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
