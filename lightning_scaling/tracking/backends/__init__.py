"""Places that a run is written to."""
