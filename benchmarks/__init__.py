"""Figures against rivals, in one run, on the same files; each module is a command."""
