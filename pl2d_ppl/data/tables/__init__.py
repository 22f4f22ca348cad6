"""Annotations in CSV, TSV and Parquet tables."""
