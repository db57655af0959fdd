"""ext4 images and archives from directory trees: deterministic, and stable from one to the next.

`tree` reads the layers of a root, `writer` makes the file system, `tarball` the archive; `make` has
both done inside the namespace that knows the guest's ids.
"""
