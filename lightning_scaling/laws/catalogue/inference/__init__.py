"""Test-time compute: costs and gains after training."""
