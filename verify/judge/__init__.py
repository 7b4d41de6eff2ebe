"""Verdicts on pairs of outputs."""
