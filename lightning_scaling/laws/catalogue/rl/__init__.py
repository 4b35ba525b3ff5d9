"""Reinforcement learning: performance from size, interactions and compute."""
