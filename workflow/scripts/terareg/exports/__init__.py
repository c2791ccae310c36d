"""Files for other programs: NIfTI, NRRD, TIFF, series of planes, tiles for browsers, BIDS."""
