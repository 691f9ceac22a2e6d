"""Aggregates: loaded from their events, deciding, saved."""
