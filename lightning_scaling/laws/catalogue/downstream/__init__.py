"""Task performance from loss or compute."""
