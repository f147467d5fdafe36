"""`voxstrata adapt`: own labels, a few hundred, and a model: what of it to train, and whether it helps."""
