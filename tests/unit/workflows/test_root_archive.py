"""A root of packages as one archive: its words, its plan, and what is refused before anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.core.events import QuietProgress
from pipeline.core.request import BuildRequest, PackageSources
from pipeline.core.secrets import Secrets
from pipeline.workflows import root_archive

WORDS = {"distribution": "debian", "release": "bookworm", "packages": ("jq",)}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_PIPELINE_CACHE", str(tmp_path / "cache"))


def keyed(tmp_path: Path) -> BuildRequest:
    """The request with a key file that is there, and a mirror that nobody asks."""
    key = tmp_path / "archive.gpg"
    key.write_bytes(Path("/usr/share/keyrings/debian-archive-keyring.gpg").read_bytes())
    sources = PackageSources(mirrors=("http://joe:word@mirror.invalid/debian",), keys=(key,))
    return root_archive.root_request(WORDS, sources=sources)


def test_words_make_a_system_without_a_kernel() -> None:
    request = root_archive.root_request(WORDS, refresh=True)
    system = request.recipe.system
    assert system is not None
    assert (system.base, system.packages) == ((), ("jq",))
    assert request.refresh


def test_every_fault_of_the_words_is_told() -> None:
    with pytest.raises(InputError) as caught:
        root_archive.root_request({"distribution": "debain", "release": "9", "hostname": "-"})
    assert "debian" in str(caught.value)
    assert "hostname" in str(caught.value)


def test_the_plan_asks_nobody_and_tells_no_password(tmp_path: Path) -> None:
    out = tmp_path / "root.tar.gz"
    lines = root_archive.plan(keyed(tmp_path), out, QuietProgress(), Secrets())
    assert lines[0] == "take debian bookworm from " + ", ".join(
        f"http://joe:****@mirror.invalid/{name}" for name in ("debian", "debian", "debian-security")
    )
    assert "make or reuse the image layer: the layer below and jq" in lines
    assert lines[-1] == f"write {out}"
    assert not (tmp_path / "cache").exists()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    out = tmp_path / "none" / "root.tar.gz"
    with pytest.raises(InputError, match="no such directory"):
        root_archive.make(keyed(tmp_path), out, QuietProgress(), Secrets())
