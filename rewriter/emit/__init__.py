"""The fused node, written through the editor."""
