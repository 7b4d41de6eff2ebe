"""The parts of a model: each function writes nodes for what a spelling says, and returns what it has written."""
