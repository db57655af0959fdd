"""Disk images of other makers: recognised and checked by us, read and written by QEMU over NBD."""
