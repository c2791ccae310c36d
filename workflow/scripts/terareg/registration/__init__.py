"""Pose search and EM-LDDMM registration, and the transforms that result from them."""
