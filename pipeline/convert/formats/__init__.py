"""The formats that a disk can be written in, a record each, and what consumers of them take."""
