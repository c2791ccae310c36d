"""Objects in label volumes: components, counts, surfaces, skeletons, and the mask of the tissue."""
