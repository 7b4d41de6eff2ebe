"""Equalities between sizes, where they hold, and what an assumption may exclude."""
