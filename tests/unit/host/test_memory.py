"""How much memory there is, on a host and within a control group's limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.host import memory

GIB = 1 << 30


@pytest.mark.parametrize(
    ("top", "own", "expected"),
    [
        ("", "", 8 * GIB),  # a host: its topmost group has no such file
        ("max\n", "max\n", 8 * GIB),
        (f"{2 * GIB}\n", "", 2 * GIB),  # a container sees its own group as the topmost
        ("", f"{GIB}\n", GIB),
        (f"{2 * GIB}\n", f"{16 * GIB}\n", 2 * GIB),
    ],
)
def test_the_narrower_limit_counts(
    top: str, own: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text(
        f"MemTotal:       16777216 kB\nMemAvailable:   {8 * GIB >> 10} kB\n"
    )
    (tmp_path / "cgroup").write_text("0::/user.slice/job\n")
    groups = tmp_path / "groups"
    (groups / "user.slice/job").mkdir(parents=True)
    for text, place in ((top, groups), (own, groups / "user.slice/job")):
        if text:
            (place / "memory.max").write_text(text)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_CGROUPS", groups)
    assert memory.available() == expected
    assert memory.outgrows_cache(expected // 8 + 1)
    assert not memory.outgrows_cache(expected // 8)


def test_where_nobody_can_tell_nothing_outgrows_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    assert not memory.outgrows_cache(1 << 60)


def test_this_host_has_some() -> None:
    assert 0 < memory.available() < 1 << 50
