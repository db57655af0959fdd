"""File systems read in Python: ext2 to ext4 and XFS, without a mount."""
