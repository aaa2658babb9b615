"""Attacks that see scores or labels alone."""
