"""Disk images written in the formats that clouds and hypervisors take."""
