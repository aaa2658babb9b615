"""What can be promised? Bounds and estimates. Methods load on first use."""

from ironglass.core import family

family.make(__name__)
