"""Generated acquisitions with known truth, and the scorer that judges a run by them."""
