"""Tools for testing code that uses the store."""
