"""Tables of experiments: from a YAML file to many runs, and to rows with intervals."""
