"""A build's directory: workspace, manifest, history, registrations, report."""
