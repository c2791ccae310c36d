"""TeraStitcher's project files."""
