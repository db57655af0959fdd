"""Systems of RPM packages: dnf's solver, rpm in the guest's root."""
