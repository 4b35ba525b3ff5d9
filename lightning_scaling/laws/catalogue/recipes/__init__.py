"""Recipes: learning rate, batch size and how parameters are counted."""
