"""`python -m pipeline`, and what `./invoke` starts: the same commands as `image-pipeline`."""

import sys
from pathlib import Path

if not __package__:  # started by its path, from any directory
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.cli.program import main

if __name__ == "__main__":
    main("image-pipeline" if __package__ else "invoke")
