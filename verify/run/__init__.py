"""Models in onnxruntime: sessions, clones, wider types."""
