"""A small stand-in installer, made on this host from its own packages, that takes a kickstart.

`make_tree` writes an install tree that virt-install takes for a Fedora tree (`.treeinfo`,
images/pxeboot). Its installer partitions, makes LVM and file systems, unpacks a small bootable
root and runs the kickstart's scripts; it needs no network. docs/explanation/stand-in.md says which
kickstart commands it honours; it refuses all others.
"""

from __future__ import annotations

from pipeline.builders.demo.tree import FATAL, PHASES, InstallTree, make_tree, tree_identity

__all__ = ["FATAL", "PHASES", "InstallTree", "make_tree", "tree_identity"]
