"""The command ``terareg``: check a sample, run it, look at it."""
