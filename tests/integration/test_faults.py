"""Seeded short runs of the fault harnesses, and proof that they see what they look for.

The long runs are `./invoke faults`; docs/explanation/faults.md tells what they found.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.robustness.faults import bench as bench_module
from tests.robustness.faults import scarcity
from tests.robustness.faults.bench import ROOT, Bench, World
from tests.robustness.faults.disks import small_disk
from tests.robustness.faults.kills import points
from tests.robustness.faults.scarcity import Extent, Lack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]
# A run takes two seconds of a core, and a minute on a host with ten times as much to do.


@pytest.mark.parametrize(
    ("harness", "count"),
    [
        ("kills", 30),
        ("glance", 3),
        ("ec2", 3),
        ("scarcity", 20),
    ],
)
def test_disturbed_anywhere_it_leaves_nothing_and_the_rerun_completes(
    harness: str, count: int, tmp_path: Path
) -> None:
    # A process of its own: the harness becomes a subreaper, and its orphans are faults.
    words = ["--points", str(count), "--seed", "7", "--chain", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.faults", harness, *words],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=3500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].split()[:3] == [harness, str(count), "0"]
    assert done.stdout.count("clean") == count


def test_points_are_the_same_for_the_same_seed_and_use_every_signal() -> None:
    chosen = points(40, 1, 100, 10.0)
    assert chosen == points(40, 1, 100, 10.0) != points(40, 2, 100, 10.0)
    assert {p.number for p in chosen} == {
        signal.SIGKILL,
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
    }
    assert all(1 <= p.step <= 100 for p in chosen if p.step)


def test_every_kind_of_lack_comes_in_ten(tmp_path: Path) -> None:
    extent = Extent(50, tmp_path, tmp_path / "disk", {"fsync": 3, "source": 9})
    kinds = {lack.text.split()[0] for lack in scarcity.lacks(10, 1, extent)}
    assert len(kinds) >= 6


def test_the_harness_sees_what_a_run_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "SETTLE", 0.5)
    bench = Bench(tmp_path / "bench", ["build", "demo", "--disk", str(tmp_path / "none")])
    before = World.now()
    (bench.directory / "tmp" / "left").mkdir()
    build = bench.directory / "build" / "demo"
    build.mkdir(parents=True)
    (build / "manifest.json").write_text(
        '{"artifacts": [{"role": "machine", "file": "a", "sha256": ""},'
        ' {"role": "kernel", "file": "b", "sha256": ""}]}'
    )
    with subprocess.Popen(["sleep", "600"]) as sleeping:
        found = bench.faults(before)
        sleeping.wait(10)
    assert "process left: sleep 600 " in found
    assert "left in TMPDIR: left" in found
    assert "the manifest's machine is not a" in found
    assert any("it ended with 2" in fault for fault in bench.whole_faults(before, bench.run()))


def test_the_harness_judges_words(tmp_path: Path) -> None:
    lack = Lack("the disk is full", frozenset({3}), "No space left")
    judged = scarcity.wording
    assert judged(lack, 3, "Cannot write /b/x: No space left on device. Free some.") == []
    assert judged(lack, 0, "") == []
    assert "exit code 1" in judged(lack, 1, "Cannot go on")[0]
    assert "what is lacking" in judged(lack, 3, "Cannot write /b/x: it failed.")[0]
    assert "names no file" in judged(lack, 3, "Cannot write: No space left on device.")[0]
    assert "no explanation" in judged(lack, 3, "OSError: No space left on device")[0]


def test_the_small_disk_is_whole(tmp_path: Path) -> None:
    disk = small_disk(tmp_path / "disk.img")
    said = subprocess.run(
        ["sfdisk", "--dump", disk], capture_output=True, text=True, check=True
    ).stdout
    assert said.count("type=83") == 1
