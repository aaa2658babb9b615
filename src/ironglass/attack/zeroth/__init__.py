"""Black-box attacks that estimate gradients from scores, query by query."""
