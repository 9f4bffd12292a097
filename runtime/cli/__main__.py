"""`python -m runtime.cli`: the command where its script is not on the path."""

from runtime.cli.main import run

run()
