"""How a guest boots: its boot loader's configuration, kernels and ramdisks."""
