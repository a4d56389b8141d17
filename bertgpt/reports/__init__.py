"""The report: one page about some runs, that needs nothing but a browser."""
