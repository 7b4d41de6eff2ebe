"""The power of a comparison: mutants that it has to notice."""
