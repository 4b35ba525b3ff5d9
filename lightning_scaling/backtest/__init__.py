"""Backtests: the engine driven over recorded runs."""
