"""EC2's bundle format: archive, encryption, manifest."""
