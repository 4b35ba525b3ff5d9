"""Mixtures of experts and pruned networks: loss from size, data and sparsity."""
