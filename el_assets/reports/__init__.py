"""Single-file HTML reports on the tables."""
