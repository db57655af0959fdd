"""`python -m tests.disks LAYOUT FILE`: make one disk and print what is on it."""

import sys
from pathlib import Path

from tests.disks import LAYOUTS, make_disk

if len(sys.argv) != 3 or sys.argv[1] not in LAYOUTS:
    sys.exit(f"usage: python -m tests.disks {{{','.join(LAYOUTS)}}} FILE")
facts = make_disk(sys.argv[1], Path(sys.argv[2]))
print(f"{facts.disk.path}: root {facts.filesystem} {facts.root_uuid} in {facts.choice}")
