"""Typed events: names and versions for classes, and what became of older ones."""
