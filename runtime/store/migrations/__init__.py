"""How the control store's tables came to be, one file a revision. Numbers rise by one, and what is released stays."""
