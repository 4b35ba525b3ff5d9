"""Single curves: loss or error against one quantity, without a schedule."""
