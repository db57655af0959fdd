"""The container's files agree with each other and with the tasks: what needs no engine to know."""

from __future__ import annotations

import fnmatch
import re
import shlex
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from invoke.collection import Collection
from invoke.parser import Parser

import tasks
from pipeline.core.resources import PROJECT

DOCKERFILE = (PROJECT / "Dockerfile").read_text().replace("\\\n", " ")
EXAMPLES = sorted((PROJECT / "docs/ci").iterdir())
COMMAND = re.compile(
    r"(?:docker run .*? image-pipeline|container-entry|\./invoke)(?=\s)(.*)", re.MULTILINE
)


def copied() -> list[str]:
    """What the Dockerfile copies from the checkout."""
    lines = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    return [name for line in lines for name in line.split()]


def sent(name: str) -> bool:
    """Whether .dockerignore lets a path through: the last matching line decides."""
    result = True
    for line in (PROJECT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.lstrip("!").removeprefix("**/")
            parents = [str(p) for p in PurePosixPath(name).parents]
            if any(fnmatch.fnmatchcase(p, pattern) for p in (name, *parents[:-1])):
                result = line.startswith("!")
    return result


def test_everything_copied_is_there_and_is_sent_to_the_builder() -> None:
    assert len(copied()) > 5
    for name in copied():
        assert (PROJECT / name).exists(), name
        assert sent(name), name


def test_nothing_else_is_sent_to_the_builder() -> None:
    for name in ("tests", ".git", ".venv", "build", "catalogue", "docs", "setup/container-check"):
        assert not sent(name), name


def test_the_launcher_finds_its_inputs_in_the_image() -> None:
    # A start of the container must not begin to set up: the launcher compares these files.
    read = re.findall(r'"\$root/(setup/\S+?)"', (PROJECT / "invoke").read_text())
    run_layer = {name for name in read if "test" not in name}
    assert run_layer
    assert run_layer <= set(copied())


def words_of(text: str) -> list[list[str]]:
    """The invoke words of every command in a script or document."""
    joined = text.replace("\\\n", " ")
    return [shlex.split(words.split("`")[0].split("|")[0]) for words in COMMAND.findall(joined)]


@pytest.mark.parametrize(
    "path", [*EXAMPLES, PROJECT / "docs/how-to/container.md"], ids=lambda p: p.name
)
def test_every_command_shown_can_be_parsed_by_invoke(path: Any) -> None:
    parser = Parser(contexts=Collection.from_module(tasks).to_contexts())
    commands = words_of(path.read_text())
    assert commands or path.name == "zuul.yaml"  # whose playbook has it
    for words in commands:
        parsed = parser.parse_argv(list(words))
        assert [task.name for task in parsed] == ["build", "upload"], words


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_the_examples_are_yaml(path: Any) -> None:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict | list)
    # YAML 1.1 reads a bare `on` as true, which is how such a workflow would never start.
    assert not (isinstance(content, dict) and True in content)


def test_the_gitlab_jobs_name_stages_there_are() -> None:
    content = yaml.safe_load((PROJECT / "docs/ci/gitlab-ci.yml").read_text())
    for job in (content["container"], content["publish"]):
        assert job["stage"] in content["stages"]


def test_the_zuul_job_runs_a_playbook_there_is() -> None:
    content = yaml.safe_load((PROJECT / "docs/ci/zuul.yaml").read_text())
    job = next(entry["job"] for entry in content if "job" in entry)
    assert (PROJECT / job["run"]).is_file()
    secrets = {entry["secret"]["name"] for entry in content if "secret" in entry}
    assert {secret["secret"] for secret in job["secrets"]} == secrets
