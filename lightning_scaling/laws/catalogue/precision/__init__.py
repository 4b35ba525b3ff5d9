"""Loss from the number of bits in training and after it."""
