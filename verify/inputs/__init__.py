"""Inputs for a comparison: what the models need, sizes, drawn and given arrays."""
