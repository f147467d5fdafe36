"""Models for programs without this package: in the classes of transformers, checked before they are given."""
