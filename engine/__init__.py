"""From a rewritten model to a TensorRT engine whose fused nodes run our kernels."""
