"""Error of vision and contrastive models on the compute frontier."""
