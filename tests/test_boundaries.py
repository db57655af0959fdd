"""The architecture, held by the imports of every module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))
STAGES = ("install", "extract", "customize", "collect", "verify", "wholedisk")


def imports(path: Path) -> set[str]:
    """Dotted names of everything the module imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(path: Path) -> str:
    """The module's first name below `pipeline`."""
    return path.relative_to(ROOT / "pipeline").parts[0].removesuffix(".py")


def touches(names: set[str], package: str) -> bool:
    return any(name == package or name.startswith(package + ".") for name in names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    names, here = imports(path), part(path)
    relative = str(path.relative_to(ROOT / "pipeline"))
    if not may_start_programs(relative):
        assert not touches(names, "subprocess"), "run.py is the only door to programs"
    if here != "guest":
        assert not touches(names, "guestfs"), "guest/ is the only door to images"
    if here != "clouds":
        for package in ("openstack", "keystoneauth1", "boto3", "botocore"):
            assert not touches(names, package), f"only clouds/ may import {package}"
    if here in STAGES or here == "clouds":
        for other in set(STAGES) - {here}:
            assert not touches(names, f"pipeline.{other}"), "stages hand over, never call"
    if here not in ("standin", "trees", "install"):
        assert not touches(names, "pipeline.standin"), "the stand-in is one install tree of many"
    if here in STAGES:
        assert not touches(names, "pipeline.clouds"), "stages know no cloud"
    told = {"build": {"request", "stages"}, "plan": {"request", "stages"}, "stages": {"request"}}
    for story in {"build", "plan", "publish", "request", "stages"} - {here}:
        if here != "commands" and story not in told.get(here, ()):
            assert not touches(names, f"pipeline.{story}"), "only the commands tell the story"
    if here == "disk":
        ours = {name for name in names if name.startswith("pipeline.")}
        allowed = ("pipeline.disk", "pipeline.errors", "pipeline.model", "pipeline.sparse")
        allowed += ("pipeline.fstab",)  # as pure as it
        assert all(name.startswith(allowed) for name in ours), "disk/ is pure"


def may_start_programs(relative: str) -> bool:
    """run.py, its warden, and scripts that run as programs of their own."""
    return relative in ("run.py", "warden.py")


def test_an_import_inside_a_function_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text("def f():\n    from subprocess import run\n    import guestfs\n")
    assert {"subprocess", "subprocess.run", "guestfs"} <= imports(module)


def test_every_module_says_what_it_is() -> None:
    silent = [str(p) for p in MODULES if ast.get_docstring(ast.parse(p.read_text())) is None]
    assert silent == []
