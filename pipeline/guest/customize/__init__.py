"""What is changed in a guest so that it runs as a cloud image."""
