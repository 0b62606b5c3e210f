"""One file a paper: its table, and the function that turns the table into a tree."""
