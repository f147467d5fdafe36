"""One training loop for all systems: exact resume, atomic checkpoints, a journal."""
