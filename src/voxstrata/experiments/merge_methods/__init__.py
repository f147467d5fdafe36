"""Merge methods beside each other: each tuned alike on two experts, and scored on both skills."""
