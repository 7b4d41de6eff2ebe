"""Verification of one attention at a time."""
