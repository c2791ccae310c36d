"""Cells and labelled tissue: found at full resolution, counted per region."""
