"""Records of training runs: the run, its curve, its events and its final loss."""
