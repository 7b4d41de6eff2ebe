"""Numeric self-checks of proofs, and sites cut out of both models."""
