"""Models that are their own explanation, to stand beside black boxes on the same table."""
