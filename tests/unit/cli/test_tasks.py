"""The command line as a user meets it: the launcher, the words, the exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.resources import PROJECT

ROOT = PROJECT


def invoke(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "invoke", "--search-root", str(ROOT), *words],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_list_names_every_task() -> None:
    listing = invoke("--list").stdout
    for name in ("build", "upload", "recipes", "test", "check"):
        assert f"\n  {name} " in listing


@pytest.mark.parametrize(("wish", "compiled"), [("", True), ("1", False)])
def test_modules_are_compiled_once_unless_python_was_told_not_to(
    tmp_path: Path, wish: str, compiled: bool
) -> None:
    place = tmp_path / "compiled"
    done = invoke("--list", PYTHONDONTWRITEBYTECODE=wish, PYTHONPYCACHEPREFIX=str(place))
    assert done.returncode == 0
    assert bool([*place.rglob("session.*.pyc")]) == compiled


def test_recipes_are_listed_from_anywhere(tmp_path: Path) -> None:
    shown = invoke("recipes", cwd=tmp_path)
    assert shown.returncode == 0
    assert "demo" in shown.stdout
    assert "demo" in json.loads(invoke("recipes", "--json").stdout)


def test_a_misspelt_second_word_stops_before_the_first_runs(tmp_path: Path) -> None:
    done = invoke("build", "demo", "uplaod", IMAGE_PIPELINE_BUILD=str(tmp_path / "b"))
    assert done.returncode != 0
    assert "uplaod" in done.stdout + done.stderr
    assert not (tmp_path / "b").exists()


def test_an_unknown_recipe_is_answered_with_the_nearest(tmp_path: Path) -> None:
    done = invoke("build", "dmeo", IMAGE_PIPELINE_BUILD=str(tmp_path / "b"))
    assert done.returncode == 2
    assert "did you mean demo?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "b").exists()


def test_upload_never_guesses(tmp_path: Path) -> None:
    done = invoke("upload", IMAGE_PIPELINE_BUILD=str(tmp_path))
    assert done.returncode == 2
    assert "no build was named" in done.stderr
    done = invoke("upload", "--recipe", "demo", "--json", IMAGE_PIPELINE_BUILD=str(tmp_path))
    assert done.returncode == 2
    assert "never finished" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["build", "demo", "--variable", "nonsense"], "NAME=VALUE"),
        (["build", "demo", "--backend", "magic"], "auto, guestfs and e2fsprogs"),
        (["build", "demo", "--disk", "/nonexistent"], "/nonexistent"),
        (["upload", "--recipe", "demo", "--visibility", "everyone"], "private, shared"),
        (["unbundle", "x.manifest.xml"], "--out FILE"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, words: list[str], complaint: str) -> None:
    done = invoke(*words, IMAGE_PIPELINE_BUILD=str(tmp_path / "b"))
    assert done.returncode in (2, 3)
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_an_upload_after_a_planned_build_is_planned_too(tmp_path: Path) -> None:
    words = ("build", "demo", "--dry-run", "upload", "--cloud", f"local:{tmp_path / 'c'}")
    planned = invoke(*words, "--dry-run", IMAGE_PIPELINE_BUILD=str(tmp_path / "b"))
    assert planned.returncode == 0, planned.stderr
    assert "register the three files once they are built" in planned.stdout
    refused = invoke(*words, IMAGE_PIPELINE_BUILD=str(tmp_path / "b"))
    assert refused.returncode == 2
    assert "only planned" in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--version"], "image-pipeline "),
        (["build", "--help"], "Usage: invoke [--core-opts] build "),
    ],
)
def test_the_launcher_once_set_up_only_hands_over(
    tmp_path: Path, words: list[str], answer: str
) -> None:
    """A machine that is set up is not asked anything: no package manager, no network."""
    for name in ("apt-get", "dpkg-query", "sudo", "pip"):
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\nexit 1\n")
        tool.chmod(0o755)
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    files = "cat setup/debian-packages.txt setup/requirements.lock | cksum"
    stamp = subprocess.run(["sh", "-c", files], cwd=ROOT, capture_output=True, check=True).stdout
    (venv / ".ready-run").write_bytes(stamp)
    done = subprocess.run(
        [str(ROOT / "invoke"), *words],
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "IMAGE_PIPELINE_VENV": str(venv),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(answer)
    assert not (tmp_path / "calls").exists()


def test_the_launcher_says_what_a_foreign_system_needs(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "readlink", "cat", "cksum", "mkdir", "flock", "sed", "xargs",
                 "grep", "tail", "id", "env"):  # fmt: skip
        (tools / name).symlink_to(Path("/usr/bin") / name)
    done = subprocess.run(
        ["/usr/bin/bash", str(ROOT / "invoke"), "--list"],
        env={"PATH": str(tools), "HOME": str(tmp_path), "IMAGE_PIPELINE_VENV": f"{tmp_path}/v"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 3
    assert "not a Debian-like system" in done.stderr
    assert "virtinst" in done.stderr
    assert "IMAGE_PIPELINE_NO_PACKAGES=1" in done.stderr


def test_h_asks_for_help_and_never_hides_images(tmp_path: Path) -> None:
    shown = invoke("upload", "-h", IMAGE_PIPELINE_BUILD=str(tmp_path))
    assert shown.returncode == 0
    assert "--hidden" in shown.stdout
    assert "\n  -h, " not in shown.stdout
