"""Black-box attacks that see labels alone."""
