"""Files for other programs: NIfTI, NRRD, TIFF, series of planes, tiles for browsers, blocks for Vaa3D, BIDS."""
