"""Attacks that follow the loss's gradient."""
