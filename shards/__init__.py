"""Cutting a rewritten model by heads and features, one file per rank, for tensor parallelism."""
