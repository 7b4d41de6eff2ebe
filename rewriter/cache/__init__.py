"""The cache of a decoder as buffers of fixed capacity, in place of tensors that grow.

A rewritten model takes past keys and values in, appends the new ones to them, and hands the result out.  That copies
the whole cache in every step.  ``found.py`` says which fused nodes read such a cache and what is appended to it,
``padding.py`` that masks and positions say nothing where nothing is padded, and ``leftover.py`` that nothing else needs
the length of the cache.  ``place.py`` writes what comes of it.
"""
