"""Stores that past runs are read from."""
