"""Flat-field of the tiles and bias field of the volume."""
