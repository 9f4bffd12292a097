"""The command `teal`: thin. Commands return data, `render` draws it, `--json` prints it as it is."""
