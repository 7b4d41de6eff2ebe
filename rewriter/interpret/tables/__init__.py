"""Constant tables as formulas."""
