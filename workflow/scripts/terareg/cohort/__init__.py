"""Cohorts: regions and maps of many samples, compared between two groups."""
