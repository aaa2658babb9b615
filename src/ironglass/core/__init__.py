"""Values, catalogue, errors and statistics: what every other layer stands on."""
