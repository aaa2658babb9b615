"""Can those answers be believed? Tests of explanations. Methods load on first use."""

from ironglass.core import family

family.make(__name__)
