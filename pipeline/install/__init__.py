"""The install stage: virt-install in a supervised virtual machine, from answers to a disk.

tree = obtain(recipe, tools)
answers = kickstart.render(recipe, nonce=..., overrides=..., builtins=tree.variables)
disk = install(recipe, answers, tree, out, acceleration, tools, evidence=...)
"""

from __future__ import annotations

from pipeline.install.argv import Machine, virt_install_argv
from pipeline.install.stage import identity, install, plan
from pipeline.install.supervise import Limits
from pipeline.trees import Tree, obtain

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
