"""The command line: parses, prints, exits. Torch is imported when a model is, not before."""
