"""Volumes and tables that are made from others: the tools of the section ``derived:``."""
