"""What is written: the family of fused nodes, and the function body that specifies each."""
