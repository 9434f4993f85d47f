"""Keeps the node running."""
