"""From one artifact to another: disk to root, root to disk, shrinking."""
