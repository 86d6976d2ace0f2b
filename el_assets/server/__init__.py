"""The UI: Dagster's web server with a middleware, the door, that refuses requests of other sites' web pages."""
