"""Dense pre-training: loss from model size, data, compute and steps."""
