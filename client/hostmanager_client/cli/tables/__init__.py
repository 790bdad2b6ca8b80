"""Tables that fit a terminal: widths of text, layout, and the table of instances."""
