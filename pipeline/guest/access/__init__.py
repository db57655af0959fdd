"""The only package that opens file system images for editing: one protocol, two backends."""
