"""Reading acquisitions: metadata, tiles and planes of COLM and other layouts."""
