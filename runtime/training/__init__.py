"""How candidates are made: the split, the loop, the sweep."""
