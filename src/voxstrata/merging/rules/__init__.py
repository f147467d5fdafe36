"""Merge rules, a file each family of methods; `registry` names them."""
