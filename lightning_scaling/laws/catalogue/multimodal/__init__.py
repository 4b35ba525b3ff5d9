"""Several modalities in one model, and speech."""
