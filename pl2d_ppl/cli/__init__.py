"""The command ``pl2d``, with one file per subcommand."""
