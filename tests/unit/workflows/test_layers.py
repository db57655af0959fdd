"""What is said of layers, and of those that went."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pipeline.builders.packages.layers.garbage import Garbage
from pipeline.workflows.layers import Listed, garbage_lines, lines

NOW = datetime.now(UTC).isoformat(timespec="seconds")


def listed(**more: object) -> Listed:
    words = ("debian bookworm", "jq")
    fields: dict[str, object] = {
        "key": "ab" * 32, "kind": "image", "parent": "", "backend": "apt", "words": words,
        "packages": 3, "bytes": 3 << 20, "created": NOW, "last_use": NOW,
        "used_by": ("a", "b", "c", "d"), "in_use": False,
    }  # fmt: skip
    return Listed(**(fields | more))  # type: ignore[arg-type]


def test_no_layers_at_all() -> None:
    assert lines([], Path("/layers")) == ["no layers in /layers"]


def test_a_layer_is_two_lines_and_the_sum_is_one() -> None:
    head, words, total = lines([listed()], Path("/layers"))
    assert head.startswith("image  abababababab")
    assert "by a, b, c, …" in head
    assert words.split() == ["apt", "debian", "bookworm", "jq"]
    assert total == "1 layers, 3.0 MiB in /layers"


def test_damage_and_use_are_shown() -> None:
    assert (
        "DAMAGED: its tree is missing" in lines([listed(damage="its tree is missing")], Path())[0]
    )
    assert "in use" in lines([listed(in_use=True)], Path())[0]
    assert "by nobody" in lines([listed(used_by=())], Path())[0]


def test_what_went_and_why() -> None:
    gone = [
        Garbage("k1", "leftover", 0, Path()),
        Garbage("k2", "unused", 1 << 20, Path()),
        Garbage("k3", "space", 2 << 20, Path()),
    ]
    said = garbage_lines(gone, dry_run=False)
    assert said == [
        "deleted k1: left by a killed run, or damaged",
        "deleted k2: unused for long (1.0 MiB)",
        "deleted k3: the layers take too much space (2.0 MiB)",
    ]
    assert "would delete k1" in garbage_lines(gone, dry_run=True)[0]
    assert garbage_lines([], dry_run=True) == ["nothing can go"]
