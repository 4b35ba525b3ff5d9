"""Retrieval, recommendation and graphs."""
