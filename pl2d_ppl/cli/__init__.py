"""The command ``pl2d``: a file for each command."""
