"""Records and words: what every other package may use; nothing of ours is imported here."""
