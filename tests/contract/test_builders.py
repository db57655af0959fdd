"""One test body over each kind of builder: what pipeline/builders/protocol.py promises.

That a build leaves a whole disk or nothing is held by tests/integration/test_install.py, where the
installer runs, is killed and starved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.builders.protocol import Builder
from pipeline.builders.recipes import load_recipes
from pipeline.builders.registry import kind_of, open_builder
from pipeline.core.errors import InputError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration
from pipeline.core.request import BuildRequest, PackageSources
from pipeline.core.resources import KICKSTART
from pipeline.host.context import Tools
from pipeline.host.programs import Runner

TCG = Acceleration("tcg", "forced")
SECRET = "correct-horse-battery-staple"


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner(tmp_path / "commands.log") as run:
        yield Tools(run, QuietProgress(), tmp_path / "scratch")


def given(place: Path) -> BuildRequest:
    disk = place / "disk.img"
    disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes(4096))
    return replace(installed(place), disk=disk)


def installed(place: Path) -> BuildRequest:
    """The demo, from a folder of its own, with a secret in its answers."""
    folder = place / "kickstart"
    (folder / "include").mkdir(parents=True, exist_ok=True)
    for name in ("demo.ks", *(f"include/{p.name}" for p in (KICKSTART / "include").iterdir())):
        (folder / name).write_bytes((KICKSTART / name).read_bytes())
    demo = load_recipes(KICKSTART / "recipes.toml")["demo"]
    return BuildRequest(demo.model_copy(update={"answers": folder / "demo.ks"}))


def packaged(place: Path) -> BuildRequest:
    """Debian's packages, with a key file of its own that a test may take away."""
    key = place / "archive.gpg"
    key.write_bytes(Path("/usr/share/keyrings/debian-archive-keyring.gpg").read_bytes())
    recipe = load_recipes(KICKSTART / "recipes.toml")["debian12-packages"]
    return BuildRequest(recipe, sources=PackageSources(keys=(key,)))


KINDS: dict[str, Callable[[Path], BuildRequest]] = {
    "given": given,
    "installer": installed,
    "packages": packaged,
}


@pytest.fixture(params=sorted(KINDS))
def request_(request: pytest.FixtureRequest, tmp_path: Path) -> BuildRequest:
    made = KINDS[request.param](tmp_path)
    assert kind_of(made) == request.param
    return made


@pytest.fixture
def builder(request_: BuildRequest, tools: Tools) -> Builder:
    return open_builder(request_, tools)


def commands(tools: Tools) -> str:
    log = tools.scratch.parent / "commands.log"
    return log.read_text() if log.exists() else ""


def test_opening_checking_and_describing_start_nothing(builder: Builder, tools: Tools) -> None:
    builder.check()
    actions = builder.describe(TCG)
    assert actions
    assert all(action.what and not action.reused for action in actions)
    assert commands(tools) == ""
    assert list(tools.scratch.iterdir()) == []


@pytest.mark.integration
def test_the_identity_is_the_same_for_the_same_inputs(request_: BuildRequest, tools: Tools) -> None:
    first, second = (open_builder(request_, tools).identity() for _ in range(2))
    assert json.dumps(first, default=str) == json.dumps(second, default=str)


def test_what_is_given_is_there(builder: Builder, request_: BuildRequest) -> None:
    disk = builder.given()
    assert (disk is None) == (request_.disk is None)
    if disk is not None:
        assert disk.path == request_.disk


def test_places_of_packages_are_for_packages(request_: BuildRequest, tools: Tools) -> None:
    asked = replace(request_, sources=PackageSources(proxy="http://proxy.example:3128"))
    if request_.disk is None and request_.recipe.source == "packages":
        open_builder(asked, tools)
    else:
        with pytest.raises(InputError, match="--proxy"):
            open_builder(asked, tools)


def test_a_request_that_cannot_work_is_refused_before_anything(
    request_: BuildRequest, tools: Tools
) -> None:
    if request_.disk is not None:
        request_.disk.unlink()
    elif request_.recipe.source == "packages":
        request_.sources.keys[0].unlink()
    else:
        request_.recipe.answers.write_text("no such command\npoweroff\n")
    with pytest.raises(InputError):
        open_builder(request_, tools).check()
    assert commands(tools) == ""
