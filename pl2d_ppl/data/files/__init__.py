"""Data on disk: whole files and folders, read and written."""
