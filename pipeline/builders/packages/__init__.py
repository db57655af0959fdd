"""Systems made of packages: in layers, isolated from the host, without an installer or root."""
