"""Every element rule against the operator's real semantics, cell by cell.

A cell is one operator in one version, for one type, with one choice of attributes and operands.  ``cells`` makes
them from the operators' schemas, ``judge`` asks the interpreter for every element and compares it with what onnx's
reference and onnxruntime compute.
"""
