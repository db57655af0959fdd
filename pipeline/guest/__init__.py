"""The root file system of somebody else's system: access, boot files, customisation, inventory."""
