"""The front door for plain `invoke`: `invoke --list` shows what can be done, `--help TASK` how."""

import sys

# Invoke forbids compiled modules for every run; without them each command compiles the whole
# pipeline anew. Whoever said so to Python itself (-B, PYTHONDONTWRITEBYTECODE) is still obeyed.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

from pipeline.cli import namespace as tasks

namespace = tasks.namespace()
