"""Pictures, viewer state and the report."""
