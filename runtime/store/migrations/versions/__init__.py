"""The revisions, `NNNN_what.py` each."""
