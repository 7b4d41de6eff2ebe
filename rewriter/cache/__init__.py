"""The cache of a decoder as buffers of fixed capacity, in place of tensors that grow.

A rewritten model takes past keys and values in, appends the new ones to them, and hands the result out.  That copies the
whole cache in every step.  ``found.py`` says which fused nodes read such a cache and what is appended to it,
``padding.py`` that nothing but its length is left to be known of a batch without padding, and ``place.py`` writes both.
"""
