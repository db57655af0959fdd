"""Faults put to the product's real commands: kills, full disks, lying servers."""
