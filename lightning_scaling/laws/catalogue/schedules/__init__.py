"""Whole curves that know the learning-rate schedule."""
