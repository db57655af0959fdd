"""The command: `image-pipeline` of an installation, `./invoke` of a checkout."""

from __future__ import annotations

import sys

from invoke.program import Program

import pipeline


class _Program(Program):
    def parse_core(self, argv: list[str] | None) -> None:
        """Parse Invoke's own options, which forbid compiled modules for every run.

        Without them each command would compile the whole pipeline anew. Whoever said so to Python
        itself (-B, PYTHONDONTWRITEBYTECODE) is still obeyed.
        """
        super().parse_core(argv)
        sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)


def main(name: str = "image-pipeline") -> None:
    """Parse the words and run the tasks that they name. name: what the command calls itself."""
    from pipeline.cli.namespace import namespace

    program = _Program(
        name="image-pipeline",
        binary=name,
        binary_names=[name],
        namespace=namespace(),
        version=pipeline.__version__,
    )
    words = sys.argv[1:]
    # Invoke would take the --help of `COMMAND --help` for the name that the command wants.
    if len(words) == 2 and words[1] == "--help":
        words.reverse()
    program.run([name, *words])
