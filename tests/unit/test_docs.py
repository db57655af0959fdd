"""Documents hold what they say: generated ones are current, examples are valid, commands exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

import tasks
from pipeline.builds.manifest import Manifest, json_schema
from pipeline.cli import reference
from pipeline.core.recipe import Recipe
from pipeline.core.resources import PROJECT
from tests.fixtures.finished import finished_manifest

ROOT = PROJECT
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_NOT_OURS = ("--set-up", "--list", "--help", "--complete", "--print-completion-script")


def blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def manual() -> str:
    return (ROOT / "docs" / "reference" / "manifest.md").read_text()


def test_the_configuration_reference_is_current() -> None:
    written = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    assert written == reference.configuration(tasks.namespace), "run `./invoke docs`"


def test_the_published_schema_is_current() -> None:
    assert (ROOT / "docs" / "reference" / "manifest.schema.json").read_text() == json_schema(), (
        "run `./invoke docs`"
    )


def test_the_schema_is_one_and_takes_what_we_write(tmp_path: Path) -> None:
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(json.loads(finished_manifest(tmp_path, b"root").model_dump_json()))
    (example,) = blocks(manual(), "json")
    validator.validate(json.loads(example))
    Manifest.model_validate_json(example)
    for fault in ({"version": 3}, {"surprise": 1}, {"artifacts": None}):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({**json.loads(example), **fault})


def test_the_manual_names_every_field() -> None:
    described = re.findall(r"`([a-z_]+)`", manual().split("## An example")[0])
    assert set(Manifest.model_fields) <= set(described)


def test_every_recipe_field_is_explained() -> None:
    assert set(Recipe.model_fields) == set(reference._docstrings(Recipe))


def test_every_environment_variable_is_described_and_read() -> None:
    sources = [ROOT / "invoke", ROOT / "tasks.py", *(ROOT / "pipeline").rglob("*.py")]
    sources.remove(ROOT / "pipeline" / "cli" / "reference.py")
    read = {
        name
        for path in sources
        for name in re.findall(r"\bIMAGE_PIPELINE_[A-Z_]+\b", path.read_text())
    }
    assert read == set(reference.VARIABLES)


def commands(text: str) -> list[list[str]]:
    """Invoke's words of every command line in a document, code blocks and code spans alike."""
    spans = re.findall(r"`(?:\./)?invoke ([^`\n]+)`", text)
    lines = re.findall(r"^\s*(?:\$ )?(?:\./)?invoke (.+)$", "\n".join(blocks(text, "[a-z]*")), re.M)
    return [re.split(r"\s+#\s|\s*[|;&>]", line)[0].split() for line in (*spans, *lines)]


@pytest.mark.parametrize("path", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_in_a_document_parses(path: Path) -> None:
    """Task names and options are known to Invoke; what they do is the other tests' matter."""
    known = {
        name: {flag for argument in reference.arguments(task) for flag in _flags(argument.names)}
        for name in tasks.namespace.task_names
        for task in [tasks.namespace[name]]
    }
    for words in commands(path.read_text()):
        current: set[str] = set()
        for word in words:
            if word in known and not word.startswith("-"):
                current = known[word]
            elif word.startswith("-") and word not in _NOT_OURS:
                assert word.partition("=")[0] in current, (words, word)
        assert words[0] in known or words[0] in _NOT_OURS, words


def _flags(names: tuple[str, ...]) -> set[str]:
    return {f"-{n}" if len(n) == 1 else f"--{n.replace('_', '-')}" for n in names}


@pytest.mark.parametrize("path", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_message_explained_is_one_we_give() -> None:
    """Headings quote messages; "…" stands for what the code fills in."""
    text = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()
    sources = [
        _joined(path.read_text())
        for path in [ROOT / "invoke", ROOT / "tasks.py", *(ROOT / "pipeline").rglob("*.py")]
    ]
    headings = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    assert len(headings) > 20
    for heading in headings:
        pattern = r"[^\n]*".join(re.escape(part) for part in heading.split("…"))
        assert any(re.search(pattern, source) for source in sources), heading


def _joined(source: str) -> str:
    """The source with string literals that follow one another made one."""
    return re.sub(r'"\s*\n\s*f?"', "", source)


def test_a_wrong_command_would_be_found(tmp_path: Path) -> None:
    assert commands(
        "Run `./invoke build demo upload --cloud local` then\n```\n$ ./invoke lst\n```"
    ) == [
        ["build", "demo", "upload", "--cloud", "local"],
        ["lst"],
    ]
