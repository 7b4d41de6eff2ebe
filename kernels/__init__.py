"""Kernels of the fused ALiBi attention: Triton sources, their ahead-of-time compiler and a launcher."""
