"""JSON and YAML that may come from anywhere: read whole and plain, or refused with one line."""

from voxstrata.documents.json_reader import parse_json, quick_json, read_json, read_json_object
from voxstrata.documents.text import as_number, text_encoding, without_mark
from voxstrata.documents.yaml_reader import parse_yaml, read_yaml_file, to_yaml

__all__ = [
    "as_number",
    "parse_json",
    "parse_yaml",
    "quick_json",
    "read_json",
    "read_json_object",
    "read_yaml_file",
    "text_encoding",
    "to_yaml",
    "without_mark",
]
