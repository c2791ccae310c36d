"""The command ``terareg``: describe a folder, check a sample, run it, look at it."""
