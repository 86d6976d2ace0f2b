"""Pictures of the tables. Matplotlib is imported in the functions that draw, so definitions load without it."""
