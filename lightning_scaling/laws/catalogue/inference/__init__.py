"""What is spent and gained after training."""
