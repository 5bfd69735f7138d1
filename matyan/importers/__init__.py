"""Readers of the files that other trackers leave: each gives runs as messages of our wire format, and says what it could not take.

One module a program; the table is in `programs`. A reader writes to no file of its source and takes no lock there; nothing here sends
anything, or prints.
"""
