"""The order of things: build, publish, verify, prune, doctor."""
