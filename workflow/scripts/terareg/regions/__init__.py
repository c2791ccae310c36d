"""What is carried through a transform: labels, channels, points; region tables; meshes."""
