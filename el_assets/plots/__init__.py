"""Pictures of the tables. Drawing is imported where it is done, so that definitions load without it."""
