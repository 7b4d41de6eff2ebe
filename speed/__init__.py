"""`rewrite bench MODEL`: the original against the rewritten model, on this machine, in onnxruntime.

It answers the first question of every user: what do I gain?  Three models are compared: the original, the rewritten one
as any onnxruntime runs it (function bodies), and the rewritten one on our kernels.
"""
