"""How do I make it stronger? Repairs and defences. Methods load on first use."""

from ironglass.core import family

family.make(__name__)
