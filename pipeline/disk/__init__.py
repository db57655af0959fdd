"""Partition tables, LVM2, superblocks and the hole-preserving copy: pure Python, no root.

Everything here reads an untrusted disk: sizes are bounded before they are believed, and whatever
does not add up is a DiskError that names the structure.
"""
