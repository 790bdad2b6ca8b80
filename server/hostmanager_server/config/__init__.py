"""The site config: a file in, validated specs out."""
