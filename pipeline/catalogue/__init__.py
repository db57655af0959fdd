"""The repository of images: its index and how images are found in it."""
