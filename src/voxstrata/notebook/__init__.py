"""What a notebook or script calls: train, evaluate and compare as the commands do, and a run as an object."""
