"""How do models, attacks and defences compare? Games, curves, frontiers. Entries load on first use."""

from ironglass.core import family

family.make(__name__)
