"""Layers: planned, made once, kept, and deleted when nobody uses them."""
