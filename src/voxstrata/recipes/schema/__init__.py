"""What a recipe may say: one schema per system; unknown keys are refused, all faults in one message."""
