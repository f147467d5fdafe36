"""What `--dry-run` tells of runs before they start: faults, clips, memory, disk and time."""
