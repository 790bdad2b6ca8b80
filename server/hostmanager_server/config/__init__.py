"""The site config: reads the file, and returns validated specs."""
