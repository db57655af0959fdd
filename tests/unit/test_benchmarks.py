"""The benchmarks' own instruments: what they count is so, and a section replaces only itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.bars import bars
from benchmarks.document import TITLES, Section, save
from benchmarks.measure import MIB, alternate, cost_table, measure


def test_a_section_replaces_itself_and_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    save("bundle", Section("bundles\n\n### Below\n\n| a | b |", "<svg/>"), document)
    save("extraction", Section("first", "<svg/>"), document)
    before = document.read_text()
    save("extraction", Section("second", "<svg>2</svg>"), document)
    after = document.read_text()
    assert after == before.replace("first", "second")
    assert after.index("## Extraction") < after.index("## EC2 bundle")
    assert after.count("### Below") == 1
    assert (tmp_path / "benchmarks-extraction.svg").read_text() == "<svg>2</svg>"
    named = {"extraction", "build", "bundle", "uploads", "reuse", "tree", "packages", "conversion"}
    assert set(TITLES) == named


def test_bytes_of_descendants_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(8 * MIB))

    def work(out: Path) -> dict[str, float]:
        with source.open("rb") as inner, (out / "kernel").open("wb") as outer:
            os.copy_file_range(inner.fileno(), outer.fileno(), 8 * MIB)
        subprocess.run(["sh", "-c", f"cat {source} > {out}/a"], check=True)
        return {"own": 7}

    cost = measure("copies", work, tmp_path)
    assert 16 * MIB <= cost.read < 17 * MIB
    assert 16 * MIB <= cost.written < 17 * MIB
    assert cost.report == {"own": 7}
    assert cost.seconds > 0
    assert list(tmp_path.iterdir()) == [source]


def test_a_contender_that_fails_ends_the_benchmark(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def work(_out: Path) -> None:
        raise ValueError("no")

    with pytest.raises(SystemExit, match="it failed"):
        measure("it", work, tmp_path)
    assert "ValueError: no" in capfd.readouterr().err


def test_ratios_divide_by_the_base_of_the_same_round(tmp_path: Path) -> None:
    costs = alternate(
        {"a": lambda _: None, "b": lambda _: {"x": 3}},
        3,
        tmp_path,
        base="a",
        once={"c": lambda _: None},
    )
    assert list(costs) == ["a", "b", "c"]
    assert costs["a"].ratio == 1
    assert costs["b"].report == {"x": 3}
    assert cost_table(costs, "a").count("\n") == 5


def test_bars_escape_what_they_show() -> None:
    assert "a &lt; b" in bars("a < b", {"x": 1.0})
