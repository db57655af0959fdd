"""What the pipeline was tried with, row by row, and the document that tells of it.

File systems and disks are made, and built from, when the document is written. Guests, and servers
that no test starts, are read from what earlier runs recorded (guests.json, servers.json).
"""
