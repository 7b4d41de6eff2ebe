"""What is looked for, as data: forms of the bias, forms of masks, shapes of attention.

Nothing in this package walks a graph; the engine that does is ``rewriter``.
"""
