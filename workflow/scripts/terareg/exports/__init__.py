"""Files for other programs: NIfTI, NRRD, TIFF, planes, tiles for a page, blocks for Vaa3D, BIDS."""
