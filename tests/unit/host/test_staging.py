"""A copy of the layer below where layers cannot be stacked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.events import QuietProgress
from pipeline.host.context import Tools
from pipeline.host.isolation import Isolation, Root
from pipeline.host.programs import Runner
from pipeline.host.staging import stage_copy

PLAIN = Isolation("root", 0, 1 << 32, overlay=False, namespaces=False)


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner() as run:
        yield Tools(run, QuietProgress(), tmp_path / "scratch")


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Two layers, of which the topmost is whole."""
    for name in ("top", "bottom", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "top" / "file").write_text("of the top")
    (tmp_path / "top" / "link").symlink_to("file")
    (tmp_path / "bottom" / "file").write_text("of the bottom")
    return Root((tmp_path / "top", tmp_path / "bottom"), tmp_path / "upper", tmp_path / "work")


def test_nothing_is_copied_where_layers_are_stacked(root: Root, tools: Tools) -> None:
    assert stage_copy(replace(PLAIN, overlay=True), root, tools) == root
    assert list(root.upper.iterdir()) == []


def test_nothing_is_copied_for_the_first_layer(root: Root, tools: Tools) -> None:
    first = replace(root, lower=())
    assert stage_copy(PLAIN, first, tools) == first


@pytest.mark.skipif(os.geteuid() != 0, reason="without namespaces only root may isolate")
def test_the_topmost_layer_is_copied_and_becomes_the_root(root: Root, tools: Tools) -> None:
    staged = stage_copy(PLAIN, root, tools)
    assert staged == Root((), root.upper, root.work)
    assert (root.upper / "file").read_text() == "of the top"
    assert (root.upper / "link").readlink() == Path("file")
    assert (root.lower[0] / "file").exists()
