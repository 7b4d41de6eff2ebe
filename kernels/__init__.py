"""Kernels of the fused ALiBi attention: Triton sources, their ahead-of-time compiler and a launcher.

How the sources in ``portable`` and ``hopper`` are written:

* They are compiled by Triton and never called as Python.  Its language has no types that mypy could check.
* Compile-time parameters are in capitals, as is the custom in Triton.
* A condition at compile time has an ``if`` of its own.  ``and`` would join it with one at run time into a tensor, and
  both branches would be compiled.
* A change of their text that is meant to change nothing leaves the compiled PTX as it was
  (``benchmarks/pins/kernels.py``).
"""
