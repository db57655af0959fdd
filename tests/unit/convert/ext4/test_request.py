"""The program answers a request in JSON, and leaves nothing under a name that is not whole."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.convert.ext4.contents import digest_tree
from pipeline.convert.ext4.request import _extra
from pipeline.convert.ext4.tree import scan
from pipeline.core.resources import PROJECT
from tests.unit.convert.ext4.images import EPOCH, MIB, assert_equal, fsck

ANSWER_FIELDS = {"entries", "digest", "needed", "image", "archive"}


def ask(request: dict[str, Any], **options: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.convert.ext4"],
        input=json.dumps(request).encode(),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        check=True,
        timeout=120,
        **options,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def request_for(tmp_path: Path) -> dict[str, Any]:
    for layer in ("upper", "lower"):
        (tmp_path / layer / "dev").mkdir(parents=True)
        (tmp_path / layer / "both").write_text(layer)
    (tmp_path / "lower" / "large").write_bytes(os.urandom(2 * MIB))
    return {
        "layers": [str(tmp_path / "upper"), str(tmp_path / "lower")],
        "extra": [{"path": "dev/console", "kind": "character", "mode": 0o600, "rdev": [5, 1]}],
        "epoch": EPOCH,
        "digest": True,
        "image": {
            "to": str(tmp_path / "image"),
            "size": 0,
            "uuid": "00000000-0000-0000-0000-000000000001",
            "hash_seed": "00000000-0000-0000-0000-000000000002",
            "sha256": True,
        },
        "archive": {"to": str(tmp_path / "archive")},
    }


def test_everything_at_once(request_for: dict[str, Any], tmp_path: Path) -> None:
    answer = ask(request_for)
    assert set(answer) == ANSWER_FIELDS
    image = tmp_path / "image"
    fsck(image)
    entries = scan(
        [tmp_path / "upper", tmp_path / "lower"], [_extra(e) for e in request_for["extra"]]
    )
    assert_equal(entries, image)
    assert answer["digest"] == digest_tree(entries)
    assert answer["needed"] == answer["image"]["size"] == image.stat().st_size
    assert answer["image"]["sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
    assert answer["archive"]["size"] == (tmp_path / "archive").stat().st_size


def test_descriptors_instead_of_paths(request_for: dict[str, Any], tmp_path: Path) -> None:
    by_path = ask(request_for)
    with (tmp_path / "other").open("w+b") as image, (tmp_path / "tar").open("w+b") as archive:
        request_for["image"]["to"], request_for["archive"]["to"] = image.fileno(), archive.fileno()
        assert ask(request_for, pass_fds=[image.fileno(), archive.fileno()]) == by_path
    assert (tmp_path / "other").read_bytes() == (tmp_path / "image").read_bytes()
    assert (tmp_path / "tar").read_bytes() == (tmp_path / "archive").read_bytes()


def test_too_small_an_image_is_an_error_and_no_file(
    request_for: dict[str, Any], tmp_path: Path
) -> None:
    request_for["image"]["size"] = 2 * MIB
    answer = ask(request_for)
    assert set(answer) == {"error"}
    assert answer["error"]["kind"] == "input"
    assert "does not fit" in answer["error"]["why"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lower", "upper"]


def test_a_write_that_fails_is_an_error_and_no_file(
    request_for: dict[str, Any], tmp_path: Path
) -> None:
    limit = MIB

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    del request_for["archive"]
    answer = ask(request_for, preexec_fn=small)
    assert answer["error"]["kind"] == "host"
    assert "File too large" in answer["error"]["why"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lower", "upper"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
def test_a_full_file_system_is_an_error_and_no_file(
    request_for: dict[str, Any], tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this host lets nobody mount a tmpfs")
    try:
        for kind in ("image", "archive"):
            each = {
                name: value
                for name, value in request_for.items()
                if name not in ("image", "archive")
            }
            each[kind] = request_for[kind] | {"to": str(small / "out")}
            answer = ask(each)
            assert answer["error"]["kind"] == "host"
            assert "No space left" in answer["error"]["why"]
            assert list(small.iterdir()) == []
            with (small / "given").open("w+b") as file:
                answer = ask(
                    each | {kind: request_for[kind] | {"to": file.fileno()}},
                    pass_fds=[file.fileno()],
                )
            assert answer["error"]["subject"] == str(small / "given")
            (small / "given").unlink()
    finally:
        subprocess.run(["umount", small], check=True)
