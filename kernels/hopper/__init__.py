"""The kernel for Hopper GPUs, in Gluon: producer, consumers, tiles."""
