"""Emotional speech spoken by espeak-ng, in which words and prosody each tell a known part of the emotion."""
