"""Single-file HTML reports of what the tables hold."""
