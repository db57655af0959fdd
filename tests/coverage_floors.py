"""python -m tests.coverage_floors: fail where a package is covered less than its floor."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path

from pipeline.core.resources import PROJECT


def shares(report: Path) -> dict[str, float]:
    """Package of pipeline/ -> per cent of its lines and branches that were covered."""
    done: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for name, file in json.loads(report.read_text())["files"].items():
        parts = Path(name).parts
        package = parts[parts.index("pipeline") + 1].removesuffix(".py")
        summary = file["summary"]
        done[package] += summary["covered_lines"] + summary["covered_branches"]
        total[package] += summary["num_statements"] + summary["num_branches"]
    return {name: 100 * done[name] / total[name] for name in total if total[name]}


def main() -> int:
    """Print each package with its share and its floor."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    floors: dict[str, int] = settings["tool"]["image-pipeline"]["coverage"]
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "coverage.json"
        words = [sys.executable, "-m", "coverage", "json", "-q", "-o", str(report)]
        subprocess.run(words, cwd=PROJECT, check=True)
        found = shares(report)
    below = []
    for name in sorted({*floors, *found} - {"__init__", "__main__"}):
        share, floor = found.get(name, 0.0), floors.get(name)
        print(f"{name:12} {share:5.1f} %   floor {floor if floor is not None else 'not set'}")
        if floor is None or share < floor:
            below.append(name)
    if below:
        print(f"coverage: below the floor or without one: {', '.join(below)}", file=sys.stderr)
    return bool(below)


if __name__ == "__main__":
    sys.exit(main())
