"""Learning curves of a rising metric: the forms weighed by Domhan et al. 2015."""
