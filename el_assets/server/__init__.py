"""The UI: Dagster's web server behind a door that web pages of other sites cannot pass."""
