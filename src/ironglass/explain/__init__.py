"""Why this prediction? Attributions. Methods load on first use."""

from ironglass.core import family

family.make(__name__)
