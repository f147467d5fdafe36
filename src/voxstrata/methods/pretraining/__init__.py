"""Pre-training a small encoder by masked prediction of acoustic clusters."""
