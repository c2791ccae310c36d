"""Where arrays and records live: a folder or an S3 prefix."""
