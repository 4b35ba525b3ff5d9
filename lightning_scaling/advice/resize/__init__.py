"""Advice on the size of the model and the amount of data."""
