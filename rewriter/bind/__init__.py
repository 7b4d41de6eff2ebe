"""Existing tensors chosen for every input of the fused node."""
