"""Kickstarts that are read without an installer."""
