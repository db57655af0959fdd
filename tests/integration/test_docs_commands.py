"""Every command in the documents is typed here, or says "(not run here: WHY)" to its readers.

A fence is run as it stands, those of one document one after the other; a command in a sentence by
itself. What installs or boots a guest waits for `./invoke test --long`. Each begins in a checkout
in which `build demo upload` was run. The guides have a test of their own, test_guides.py.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.resources import PROJECT
from tests.contract.ec2_site import standin, standin_account
from tests.fakes.server import Cloud
from tests.fixtures.demo import Demo, copy_of_the_checkout, environment, shell
from tests.fixtures.literate import COMMAND, Command, blocks, hidden_commands, spans, steps
from tests.servers.fixtures import LoneGlance, token_settings
from tests.unit.test_container import EXAMPLES, words_of

# Written by the command that they name.
_GENERATED = ("benchmarks.md", "benchmarks-extraction.md")
DOCS = [
    path
    for path in sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
    if path.name not in _GENERATED
]
GUIDES = ("adding-a-cloud.md", "adding-a-distribution.md")
LANGUAGES = {"sh", "text", "json", "toml", "ini", "python", "yaml", "kickstart"}
OURSELVES = ("./invoke test", "./invoke check")
"""What CI runs (.ci/run): these very tests."""
INSTALLS_OR_BOOTS = re.compile(r"\binvoke (?:build (?!.*--disk)|verify\b)")
"""Commands of a minute each without acceleration; the others take seconds."""


def collected() -> Iterator[tuple[str, Command]]:
    """(document, command) of all there are but the guides' fences; fences of one as one."""
    for path in DOCS:
        text = path.read_text()
        for span in spans(text):
            yield path.name, span
        fences = [step for step in steps(text) if isinstance(step, Command)]
        for fence in [] if path.name in GUIDES else fences:
            yield path.name, fence
    for path in EXAMPLES:  # of CI services: their words for the pipeline, without an engine
        for words in words_of(path.read_text()):
            yield path.name, Command(shlex.join(["invoke", *words]))


def to_run() -> list[object]:
    """Each command once, whichever documents it is in."""
    first: dict[str, str] = {}
    for document, command in collected():
        if not command.excuse and command.text not in OURSELVES:
            # ./invoke is what a checkout has, invoke what the virtual environment has.
            first.setdefault(command.text.removeprefix("./"), document)
    return [
        pytest.param(
            text,
            id=f"{document}-{text.strip()}",
            marks=[pytest.mark.long] if INSTALLS_OR_BOOTS.search(text) else [],
        )
        for text, document in first.items()
    ]


def test_there_are_commands_to_run() -> None:
    assert len(to_run()) > 20
    assert "invoke build demo upload --cloud glance:example" in {c.text for _, c in collected()}
    assert "./invoke check" in (PROJECT / ".ci" / "run").read_text()


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_no_command_hides_from_these_tests(path: Path) -> None:
    text = path.read_text()
    assert hidden_commands(text) == []
    assert {language for language, *_ in blocks(text)} <= LANGUAGES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_the_examples_say_what_was_not_run(path: Path) -> None:
    assert re.match(r"(?:#.*\n)*# Not run here: \w", path.read_text())


def test_what_counts_as_a_command() -> None:
    text = (
        "Type `./invoke list` or `docker run x` (not run here:\nno engine). `invoke` is a name.\n"
    )
    assert spans(text) == [Command("./invoke list"), Command("docker run x", "no engine")]
    fence = "```sh\ninvoke build x\n```\n"
    assert steps(fence + "\n(Not run here: far away.)") == [
        Command("invoke build x\n", "far away.")
    ]
    assert steps(fence + "\nIt runs.") == [Command("invoke build x\n")]
    assert hidden_commands(fence.replace("sh", "text")) == ["invoke build x"]
    assert COMMAND.match("A=1 pytest tests") and not COMMAND.match("invoked by hand")


@dataclass(frozen=True)
class Site:
    """A checkout with a finished demo, and the variables that name the clouds of the documents."""

    directory: Path
    variables: Mapping[str, str]
    ec2: Cloud

    def type(self, text: str) -> subprocess.CompletedProcess[str]:
        return shell(text, self.directory, self.variables)

    def bundle(self) -> str:
        """Upload the demo as bundles and fetch them; the machine image's manifest."""
        done = self.type("invoke upload --recipe demo --cloud ec2:lab")
        assert done.returncode == 0, done.stderr
        for key, stored in self.ec2.s3.buckets["images"].items():
            (self.directory / key).write_bytes(stored.data)
        return next(p.name for p in self.directory.glob("machine-demo-*.manifest.xml"))


@pytest.fixture(scope="module")
def clouds(
    lone_glance: LoneGlance, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, str], Cloud]]:
    """The clouds that the documents speak of: a real Glance, and the strict EC2 stand-in."""
    place = tmp_path_factory.mktemp("clouds")
    settings = token_settings(lone_glance.url, "user:documents:member,reader")
    names = ("prod", "example")
    (place / "clouds.yaml").write_text(json.dumps({"clouds": dict.fromkeys(names, settings)}))
    variables = {
        "OS_CLIENT_CONFIG_FILE": str(place / "clouds.yaml"),
        "AWS_CONFIG_FILE": str(place / "aws"),
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "IMAGE_PIPELINE_CONFIG": str(place / "config"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGE_PIPELINE_CONFIG", variables["IMAGE_PIPELINE_CONFIG"])
        with standin(place) as (cloud, certificate):
            profiles = standin_account(cloud).profiles(
                image_pipeline_bucket="images", image_pipeline_certificate=str(certificate)
            )
            (place / "aws").write_text(profiles.replace("[profile mine]", "[profile lab]"))
            yield variables, cloud


@pytest.fixture
def site(
    finished_demo: Demo, clouds: tuple[dict[str, str], Cloud], tmp_path: Path
) -> Iterator[Site]:
    finished_demo.clone(copy_of_the_checkout(tmp_path / "checkout"))
    yield Site(tmp_path / "checkout", *clouds)


@pytest.mark.integration
@pytest.mark.parametrize("text", to_run())
def test_a_command_does_what_its_document_says(text: str, site: Site) -> None:
    if "MANIFEST" in text:
        text = text.replace("MANIFEST", site.bundle())
    if "@previous" in text:  # another build of the same recipe, from its own disk
        assert site.type("invoke build demo --root VolGroup/lv_root --no-verify").returncode == 0
    text = text.replace("--out FILE", "--out image.img")
    text = re.sub(r"\bFILE\b", "build/demo/disk.img", text)  # not the end of a variable's name
    text = re.sub(r"\bNAME\b", "demo", text)
    text = re.sub(r"\bDIR\b", "cloud", text)
    if "invoke console" in text:
        join_and_leave(text, site)
        return
    done = site.type(text)
    assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert done.stdout or "pytest" not in text
    assert "Traceback" not in done.stderr


def join_and_leave(text: str, site: Site) -> None:
    """Type the command at a terminal, see the guest's kernel start, and press Ctrl-]."""
    ours, theirs = pty.openpty()
    variables = {**environment(site.directory), **site.variables}
    variables["PATH"] = f"{site.directory / 'bin'}:{variables['PATH']}"
    with subprocess.Popen(
        ["bash", "-c", text],
        cwd=site.directory,
        env=variables,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            seen = b""
            deadline = time.monotonic() + 300
            while b"Linux version" not in seen:
                assert time.monotonic() < deadline, seen[-2000:]
                seen += os.read(ours, 4096)
            os.write(ours, b"\x1d")
            while process.poll() is None:
                assert time.monotonic() < deadline
                os.set_blocking(ours, False)
                time.sleep(0.05)
                try:
                    seen += os.read(ours, 65536)
                except (BlockingIOError, OSError):
                    continue
        finally:
            process.kill()
            os.close(ours)
    assert process.returncode == 0, seen[-2000:]
    assert b"Ctrl-] leaves" in seen
