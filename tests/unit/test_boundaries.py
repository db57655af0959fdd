"""The architecture, held by the imports of every module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from pipeline.core.resources import PROJECT

ROOT = PROJECT
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of everything the module imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def touches(names: set[str], package: str) -> bool:
    return any(name == package or name.startswith(package + ".") for name in names)


ONLY_IN = {
    "subprocess": ("host/programs.py", "host/cleanup.py", "host/inside.py"),
    "guestfs": ("guest/access/",),
    "openstack": ("clouds/",),
    "keystoneauth1": ("clouds/",),
    "boto3": ("clouds/",),
    "botocore": ("clouds/",),
    "pipeline.builders.demo": ("builders/",),
}
"""Packages that one room alone may import, and that room."""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    names, here = imports(path), str(path.relative_to(ROOT / "pipeline"))
    for package, rooms in ONLY_IN.items():
        if not here.startswith(rooms):
            assert not touches(names, package), f"only {' and '.join(rooms)} may import {package}"


SLEEPERS = {"host/retry.py", "builders/installer/virt_install_process.py"}
"""The one place that sleeps, and a script whose interpreter has nothing of ours."""


def sleeps(path: Path) -> bool:
    """Whether the module calls `sleep` of whatever name it is known by."""
    calls = (
        node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    )
    return any(isinstance(f, ast.Attribute) and f.attr == "sleep" for f in calls) or touches(
        imports(path), "time.sleep"
    )


def test_one_place_sleeps() -> None:
    assert {str(p.relative_to(ROOT / "pipeline")) for p in MODULES if sleeps(p)} == SLEEPERS
    script = ROOT / "pipeline/builders/installer/virt_install_process.py"
    assert not touches(imports(script), "pipeline")


def test_imports_go_down_only() -> None:
    """The layers of pyproject.toml, as import-linter reads them."""
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml")) == 0


def test_an_import_inside_a_function_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text("def f():\n    from subprocess import run\n    import guestfs\n")
    assert {"subprocess", "subprocess.run", "guestfs"} <= imports(module)


def test_every_module_says_what_it_is() -> None:
    silent = [str(p) for p in MODULES if ast.get_docstring(ast.parse(p.read_text())) is None]
    assert silent == []


MOST_LINES, MOST_OF_A_FUNCTION = 400, 60


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_unit_is_longer_than_a_reader_bears(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MOST_LINES
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, functions)
        and (node.end_lineno or 0) - node.lineno + 1 > MOST_OF_A_FUNCTION
    ]
    assert long == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_generator_waits_for_threads_when_it_is_given_up(path: Path) -> None:
    """It may be collected where nobody can wait: host/pools.py is for generators."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, functions) or path.name == "pools.py":
            continue
        nodes = list(ast.walk(function))
        if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes):
            names = {node.id for node in nodes if isinstance(node, ast.Name)}
            calls = {
                node.func.id
                for node in nodes
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            assert "ThreadPoolExecutor" not in names & calls, function.name
