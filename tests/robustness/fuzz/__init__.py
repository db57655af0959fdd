"""Harnesses that run for long: each is a module with a command line."""
