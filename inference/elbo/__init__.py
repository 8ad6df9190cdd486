"""Estimators of the bound, and their comparison with the hand-derived bound."""
