"""The kernel for Hopper GPUs, in Gluon: producer, scout, consumers."""
