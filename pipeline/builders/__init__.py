"""How an installed disk or a root comes to be."""
