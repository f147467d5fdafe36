"""YAML in which no key stands twice: the later one would silently take the place of the earlier one."""

from __future__ import annotations

from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"


class DuplicateKeyError(yaml.YAMLError):
    """A mapping with a key that stands in it twice."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """Checks mappings as they are written, before the keys behind `<<` are laid below their own."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        mapping = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in mapping.value:
            # A key that is no scalar cannot be a key of a dict: the constructor refuses it.
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            name, line = self.construct_object(key), key.start_mark.line + 1
            if name in lines:
                raise DuplicateKeyError(
                    f"the key {key.value!r} stands twice in one mapping, in line {lines[name]} and again in "
                    f"line {line}; keep one"
                )
            lines[name] = line
        return mapping


def load_unique(text: str) -> Any:
    """The content of a YAML document, as `yaml.safe_load` gives it.

    >>> load_unique("a: {b: 1, c: 2}")
    {'a': {'b': 1, 'c': 2}}

    Raises:
        DuplicateKeyError: if a key stands twice in a mapping, at any depth.
        yaml.YAMLError: if the text is not YAML.
    """
    return yaml.load(text, Loader=_UniqueKeyLoader)
