"""Self-contained HTML pages from run folders; figures as SVG with their numbers as CSV."""

from voxstrata.reporting.page import write_report, write_table_report

__all__ = ["write_report", "write_table_report"]
