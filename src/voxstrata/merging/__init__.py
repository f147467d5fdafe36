"""Merging of checkpoints: rules that combine weights, and a command that merges files without training."""
