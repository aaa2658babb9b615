"""How small a change breaks it? Evasion attacks. Methods load on first use."""

from ironglass.core import family

family.make(__name__)
