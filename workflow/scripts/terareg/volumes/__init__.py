"""Multi-scale volumes: block plan, writers, fusion, reading at a resolution."""
