"""Layers become one tree as overlayfs shows it; the digest tells every change."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.convert.ext4.contents import digest_tree
from pipeline.convert.ext4.tree import Entry, scan
from pipeline.core.errors import HostError, InputError

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes")


def layers(tmp_path: Path, count: int) -> list[Path]:
    made = [tmp_path / f"layer{index}" for index in range(count)]
    for each in made:
        each.mkdir()
    return made


def paths(entries: list[Entry]) -> list[bytes]:
    return [entry.path for entry in entries]


def test_the_upper_layer_has_the_word(tmp_path: Path) -> None:
    upper, lower = layers(tmp_path, 2)
    (lower / "both").write_text("lower")
    (lower / "low").write_text("low")
    (lower / "d").mkdir()
    (lower / "d" / "low").write_text("")
    (upper / "both").write_text("upper, longer")
    (upper / "d").mkdir(mode=0o700)
    (upper / "d" / "up").write_text("")
    found = {entry.path: entry for entry in scan([upper, lower])}
    assert list(found) == [b"", b"both", b"d", b"d/low", b"d/up", b"low"]
    assert found[b"both"].size == 13
    assert (found[b"both"].layer, found[b"low"].layer) == (0, 1)
    assert (found[b"d"].mode, found[b"d"].layer, found[b"d"].base) == (0o700, 0, 1)


def test_kinds_replace_one_another(tmp_path: Path) -> None:
    upper, lower = layers(tmp_path, 2)
    (lower / "was-directory").mkdir()
    (lower / "was-directory" / "inner").write_text("")
    (lower / "was-file").write_text("x")
    (upper / "was-directory").write_text("x")
    (upper / "was-file").mkdir()
    found = {entry.path: entry.kind for entry in scan([upper, lower])}
    assert found == {b"": "directory", b"was-directory": "file", b"was-file": "directory"}


def test_a_file_between_two_directories_ends_the_merge(tmp_path: Path) -> None:
    top, middle, bottom = layers(tmp_path, 3)
    for layer in (top, bottom):
        (layer / "d").mkdir()
    (bottom / "d" / "hidden").write_text("")
    (middle / "d").write_text("")
    assert paths(scan([top, middle, bottom])) == [b"", b"d"]


@root_only
def test_what_was_removed_is_gone(tmp_path: Path) -> None:
    upper, lower = layers(tmp_path, 2)
    for name in ("gone", "kept"):
        (lower / name).write_text("")
    os.mknod(upper / "gone", 0o020000, 0)
    assert paths(scan([upper, lower])) == [b"", b"kept"]


def test_an_opaque_directory_hides_those_below(tmp_path: Path) -> None:
    upper, lower = layers(tmp_path, 2)
    for layer, name in ((upper, "new"), (lower, "old")):
        (layer / "d").mkdir()
        (layer / "d" / name).write_text("")
    os.setxattr(upper / "d", "user.overlay.opaque", b"y")
    os.setxattr(upper / "d", "user.overlay.origin", b"o")
    os.setxattr(upper / "d", "user.kept", b"k")
    found = {entry.path: entry for entry in scan([upper, lower])}
    assert list(found) == [b"", b"d", b"d/new"]
    assert found[b"d"].xattrs == (("user.kept", b"k"),)


def test_layers_with_redirects_are_refused(tmp_path: Path) -> None:
    (layer,) = layers(tmp_path, 1)
    (layer / "d").mkdir()
    os.setxattr(layer / "d", "user.overlay.redirect", b"elsewhere")
    with pytest.raises(InputError, match=r"has user\.overlay\.redirect"):
        scan([layer])


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        scan([tmp_path / "none"])


def test_names_of_one_file_are_known(tmp_path: Path) -> None:
    upper, lower = layers(tmp_path, 2)
    (lower / "b").write_text("x")
    for name in ("a", "c", "hidden"):
        (lower / name).hardlink_to(lower / "b")
    (upper / "hidden").write_text("of its own")
    found = {entry.path: entry for entry in scan([upper, lower])}
    assert [(found[n].same_as, found[n].links) for n in (b"a", b"b", b"c", b"hidden")] == [
        (b"", 3),
        (b"a", 3),
        (b"a", 3),
        (b"", 1),
    ]


def test_extra_entries(tmp_path: Path) -> None:
    (layer,) = layers(tmp_path, 1)
    (layer / "dev").mkdir()
    console = Entry(b"dev/console", "character", 0o600, rdev=(5, 1))
    assert scan([layer], [console])[-1] == console
    with pytest.raises(InputError, match="its directory is not in the tree"):
        scan([layer], [console._replace(path=b"none/console")])
    with pytest.raises(InputError, match="a directory there"):
        scan([layer], [console._replace(path=b"dev")])


def test_the_digest_tells_every_change(tmp_path: Path) -> None:
    (layer,) = layers(tmp_path, 1)
    (layer / "f").write_bytes(b"content")
    (layer / "l").symlink_to("f")
    before = digest_tree(scan([layer]))
    subprocess.run(["cp", "-a", layer, tmp_path / "elsewhere"], check=True)
    assert digest_tree(scan([tmp_path / "elsewhere"])) == before
    status = (layer / "f").stat()
    seen = {before}
    for change in (
        lambda: (layer / "f").write_bytes(b"CONTENT"),
        lambda: (layer / "f").chmod(0o4711),
        lambda: os.setxattr(layer / "f", "user.x", b"1"),
        lambda: os.setxattr(layer / "f", "user.x", b"2"),
        lambda: (layer / "g").hardlink_to(layer / "f"),
        lambda: (layer / "f").rename(layer / "h"),
    ):
        change()
        for name in ("f", "h"):
            if (layer / name).exists():
                os.utime(layer / name, ns=(status.st_atime_ns, status.st_mtime_ns))
        digest = digest_tree(scan([layer]))
        assert digest not in seen
        seen.add(digest)
    os.utime(layer / "h", ns=(0, status.st_mtime_ns + 1))
    assert digest_tree(scan([layer])) not in seen


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    (layer,) = layers(tmp_path, 1)
    (layer / "f").write_bytes(b"content")
    entries = scan([layer])
    os.truncate(layer / "f", 3)
    with pytest.raises(HostError, match="it changed while"):
        digest_tree(entries)
