"""Colours that mean the same in every drawing."""

SLOT_STYLE = {"blue": "blue", "green": "green"}
