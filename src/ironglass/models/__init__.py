"""The adapter and the loaders: the only place that knows normalization, devices, modes and other frameworks."""
