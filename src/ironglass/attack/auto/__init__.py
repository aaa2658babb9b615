"""Attacks that set their own step sizes, and the ensemble of them."""
