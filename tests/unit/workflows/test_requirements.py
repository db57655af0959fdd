"""One list of what a host needs: declared by the rooms, read by doctor, set-up and documents."""

from __future__ import annotations

import ast

import pytest

from pipeline.core.errors import HostError
from pipeline.core.resources import PROJECT
from pipeline.host.requirements import require
from pipeline.workflows.requirements import ROOMS, debian_packages, packages, requirements


def test_the_list_of_packages_is_the_declared_one() -> None:
    written = (PROJECT / "setup" / "debian-packages.txt").read_text()
    assert written == debian_packages(), "run `./invoke docs`"


def test_every_module_that_declares_a_need_is_a_room() -> None:
    found = set()
    for path in (PROJECT / "pipeline").rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        if any(isinstance(c.func, ast.Name) and c.func.id == "declare" for c in calls):
            found.add(".".join(path.relative_to(PROJECT).with_suffix("").parts))
    assert found == set(ROOMS)


def test_every_program_that_is_started_by_name_has_a_package() -> None:
    known = {name for each in requirements() for name in (*each.programs, *each.unchecked)}
    for path in (PROJECT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _runs(node.func) and node.args:
                first = _first_word(node.args[0])
                assert first is None or first in known, f"{path}: {first}"


def _runs(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and function.attr in ("run", "start")


def _first_word(argument: ast.expr) -> str | None:
    """The program of a literal argument list; None where it is not written there."""
    if isinstance(argument, ast.List) and argument.elts:
        first = argument.elts[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return first.value
    return None


def test_a_lacking_program_is_told_with_its_package() -> None:
    assert requirements()
    with pytest.raises(HostError, match="apt-get install virtinst"):
        require("virt-install", "/nonexistent")


def test_no_requirement_names_a_package_twice() -> None:
    for each in requirements():
        assert len(packages(each)) == len(set(packages(each)))
