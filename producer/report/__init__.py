"""A batch as one HTML file that opens without a server or a network and stays small for any number of rows."""

from producer.report.write import Progress, Report, write_report

__all__ = ["Progress", "Report", "write_report"]
