"""Builds, proves and publishes machine image triples for OpenStack and EC2-compatible clouds."""

__version__ = "0.1.0"
