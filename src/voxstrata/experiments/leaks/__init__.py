"""The leak guard: what would be tested must not have been trained on, by a run or by its parents."""
