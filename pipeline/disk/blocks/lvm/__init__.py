"""LVM2: labels, metadata text and volume groups, read only."""
