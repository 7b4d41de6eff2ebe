"""ONNX graphs: index, the one editor, load, save, stored tensors, well-formedness, bounds on what runs."""
