"""Displacements between tiles, their placement, and exchange with other stitchers."""
