"""HarmoniFuse (arXiv 2509.18570): the model in `system`, around it what the paper leaves open."""
