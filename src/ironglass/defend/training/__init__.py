"""Training that makes a network stronger: against attacks, or so that it can be proven."""
