"""A fuzzer of the commands: seeds, mutations of them, a judge; `python -m fuzz recordings:17` is a case."""
