"""Priors over the shape and the end of a loss curve: published, or learned from past runs."""
