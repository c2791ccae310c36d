"""Pose search and EM-LDDMM registration, and the transforms that come of them."""
