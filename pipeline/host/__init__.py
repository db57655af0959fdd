"""This machine: programs, files, locks, memory, acceleration."""
