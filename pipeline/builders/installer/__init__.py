"""The install step: virt-install in a supervised virtual machine, from answers to a disk.

tree = obtain(recipe, tools)
answers = kickstart.render(recipe, nonce=..., overrides=..., builtins=tree.variables)
disk = install(recipe, answers, tree, out, acceleration, tools, evidence=...)
"""

from __future__ import annotations

from pipeline.builders.installer.command import Machine, virt_install_argv
from pipeline.builders.installer.install import identity, install, plan
from pipeline.builders.installer.trees import Tree, obtain
from pipeline.builders.installer.watch import Limits

__all__ = [
    "Limits",
    "Machine",
    "Tree",
    "identity",
    "install",
    "obtain",
    "plan",
    "virt_install_argv",
]
