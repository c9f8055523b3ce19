"""The demo: a real batch through the real system, and a report to look at."""
