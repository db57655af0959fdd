"""Systems of Debian packages: a private apt, the guest's dpkg."""
