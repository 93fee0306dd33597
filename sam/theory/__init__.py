"""What is proved about SAM near minimisers (Wen, Ma & Li 2023, arXiv 2211.05729), on toys and on networks of which all is known exactly."""
