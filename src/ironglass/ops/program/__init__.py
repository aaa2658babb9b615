"""A network on a region as a program of linear inequalities, exact with binary variables, and its solution."""
