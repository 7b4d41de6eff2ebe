"""The ONNX function body of the fused node: ``docs/specification.md`` written as ONNX text.

The body is what runs where no kernel is registered for the node (onnxruntime, or TensorRT without the
plugin), so its form is chosen for TensorRT's own attention fusion as well as for its meaning:

* the scale multiplies the query, in the query's type, ahead of the first matrix product;
* the bias is *computed* from ranges, relative to the row, and everything that hides a key sits inside the
  expression that is added (a ``Where`` after the addition costs a materialised S_q x S_kv tensor);
* between the two matrix products everything is float32.

A hidden key gets the score ``LOWEST_FLOAT32`` exactly: a dot product is far below half a unit in the last
place of it, so ``dot + LOWEST_FLOAT32`` absorbs the dot.  A row in which all keys are hidden therefore has
equal scores everywhere, and Softmax yields the mean of all values, never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx.parser

from .spec import DOMAIN, LOWEST_FLOAT32, BiasForm, MaskKind, Variant

MINIMUM_OPSET = 11
"""Range, Clip with tensor bounds and Gather on negative axes all exist from here on."""

_FLOAT = onnx.TensorProto.FLOAT
_INT64 = onnx.TensorProto.INT64


def function_proto(
    variant: Variant, opset: int, *, grouped: bool, zero_rows: bool, query_type: int
) -> onnx.FunctionProto:
    """Builds the function body of one member of the family.

    Args:
        variant: The member; decides name, inputs and bias.
        opset: Version of the default domain the body is written for; the model's own.
        grouped: Whether any node of this op_type in the file has fewer key heads than query heads.
        zero_rows: Whether rows without a visible key yield zeros instead of the mean of all values.  It
            holds for every node that uses this body.
        query_type: ``TensorProto`` type of query, key and value.  Only a body for an opset below 15 depends
            on it (there is no CastLike).

    Returns:
        A function in domain ``alibi`` named ``variant.op_type`` with the one attribute ``scale``.

    Raises:
        ValueError: If ``opset`` is below 11.
    """
    return onnx.parser.parse_function(
        function_text(variant, opset, grouped=grouped, zero_rows=zero_rows, query_type=query_type)
    )


def function_text(variant: Variant, opset: int, *, grouped: bool, zero_rows: bool, query_type: int) -> str:
    """The text behind :func:`function_proto`, with the same arguments and errors."""
    if opset < MINIMUM_OPSET:
        raise ValueError(f"the function body needs opset {MINIMUM_OPSET} or later, not {opset}")
    body = _Body(opset, query_type)
    key, value = _heads(body, grouped)
    # dots = scale * query . key
    _scale(body)
    body.line("scaled_query = Mul (query, scale)")
    body.line(f"key_transposed = Transpose <perm = [0, 1, 3, 2]> ({key})")
    body.line("dots_as_query = MatMul (scaled_query, key_transposed)")
    body.line(f"dots = Cast <to = {_FLOAT}> (dots_as_query)")
    _distance(body, variant)
    _bias(body, variant)
    body.line("scores = Add (dots, bias)")
    body.line("weights = Softmax <axis = -1> (scores)")
    body.cast_like_query("weights_as_query", "weights")
    can_be_empty = variant.causal or variant.mask != MaskKind.NONE.value
    if zero_rows and can_be_empty:
        _zero_empty_rows(body, value)
    else:
        body.line(f"output = MatMul (weights_as_query, {value})")
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>'
    signature = f"{variant.op_type} <scale> ({', '.join(variant.inputs)}) => (output)"
    return "\n".join([header, signature, "{", *body.lines, "}", ""])


class _Body:
    """Lines of ONNX text, and the few operators whose spelling depends on the opset."""

    def __init__(self, opset: int, query_type: int) -> None:
        self.opset = opset
        self.query_type = query_type
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def constant(self, name: str, type_name: str, values: Sequence[int | float], *, scalar: bool = True) -> None:
        shape = "" if scalar else f"[{len(values)}]"
        listed = ", ".join(repr(value) for value in values)
        self.line(f"{name} = Constant <value = {type_name}{shape} {{{listed}}}> ()")

    def unsqueeze(self, output: str, source: str, axes: Sequence[int]) -> None:
        if self.opset < 13:
            self.line(f"{output} = Unsqueeze <axes = [{', '.join(map(str, axes))}]> ({source})")
            return
        self.constant(f"{output}_axes", "int64", axes, scalar=False)
        self.line(f"{output} = Unsqueeze ({source}, {output}_axes)")

    def reduce_max_last(self, output: str, source: str) -> None:
        if self.opset < 18:
            self.line(f"{output} = ReduceMax <axes = [-1], keepdims = 1> ({source})")
            return
        self.constant(f"{output}_axes", "int64", [-1], scalar=False)
        self.line(f"{output} = ReduceMax <keepdims = 1> ({source}, {output}_axes)")

    def cast_like_query(self, output: str, source: str) -> None:
        if self.opset < 15:
            self.line(f"{output} = Cast <to = {self.query_type}> ({source})")
        else:
            self.line(f"{output} = CastLike ({source}, query)")


def _scale(body: _Body) -> None:
    """``scale``: the node's attribute as a scalar of the query's type."""
    if body.opset >= 12:
        body.line("scale_float = Constant <value_float: float = @scale> ()")
    else:
        # Constant has no value_float yet; LeakyRelu's alpha carries a float attribute just as well.
        body.constant("minus_one", "float", [-1.0])
        body.line("minus_scale = LeakyRelu <alpha: float = @scale> (minus_one)")
        body.line("scale_float = Neg (minus_scale)")
    body.cast_like_query("scale", "scale_float")


def _heads(body: _Body, grouped: bool) -> tuple[str, str]:
    """Sizes, and key and value with as many heads as the query: ``x[b, h // G]``."""
    body.line("query_shape = Shape (query)")
    body.line("key_shape = Shape (key)")
    body.constant("sequence_axis", "int64", [2])
    body.line("S_q = Gather (query_shape, sequence_axis)")
    body.line("S_kv = Gather (key_shape, sequence_axis)")
    if not grouped:
        return "key", "value"
    body.constant("head_axis", "int64", [1], scalar=False)
    body.constant("one_dim", "int64", [1], scalar=False)
    body.constant("rest_dim", "int64", [-1], scalar=False)
    body.constant("same_dim", "int64", [0], scalar=False)
    body.constant("sequence_dim", "int64", [2], scalar=False)
    body.line("H = Gather (query_shape, head_axis)")
    body.line("H_kv = Gather (key_shape, head_axis)")
    body.line("G = Div (H, H_kv)")
    body.line("S_kv_dim = Gather (key_shape, sequence_dim)")
    body.line("repeats = Concat <axis = 0> (one_dim, one_dim, G, one_dim, one_dim)")
    body.line("repeated_shape = Concat <axis = 0> (same_dim, H, S_kv_dim, rest_dim)")
    for name in ("key", "value"):
        body.unsqueeze(f"{name}_groups", name, [2])
        body.line(f"{name}_copies = Expand ({name}_groups, repeats)")
        body.line(f"{name}_repeated = Reshape ({name}_copies, repeated_shape)")
    return "key_repeated", "value_repeated"


def _distance(body: _Body, variant: Variant) -> None:
    """``distance`` = d(i, j) in float32, and ``j`` [1,1,1,S_kv] and ``row`` [1,1,S_q,1] behind it."""
    body.constant("zero", "int64", [0])
    body.constant("one", "int64", [1])
    # row(i) = i + (S_kv - S_q) counts from S_kv - S_q up to the last key.
    body.line("first_row = Sub (S_kv, S_q)")
    body.line("keys = Range (zero, S_kv, one)")
    body.line("rows = Range (first_row, S_kv, one)")
    body.line(f"keys_float = Cast <to = {_FLOAT}> (keys)")
    body.line(f"rows_float = Cast <to = {_FLOAT}> (rows)")
    if variant.causal or not variant.positions:
        body.unsqueeze("j", "keys_float", [0, 1, 2])
        body.unsqueeze("row", "rows_float", [0, 1, 3])
    if variant.positions:
        body.constant("zero_float", "float", [0.0])
        body.line("rows_clamped = Max (rows_float, zero_float)")
        body.line(f"row_keys = Cast <to = {_INT64}> (rows_clamped)")
        body.line("row_positions = Gather <axis = 1> (key_positions, row_keys)")
        body.unsqueeze("p_j", "key_positions", [1, 2])
        body.unsqueeze("p_row", "row_positions", [1, 3])
        body.line("distance = Sub (p_j, p_row)")
    elif variant.form == BiasForm.SYMMETRIC.value:
        body.line("signed_distance = Sub (row, j)")
        body.line("absolute_distance = Abs (signed_distance)")
        body.line("distance = Neg (absolute_distance)")
    else:
        body.line("distance = Sub (j, row)")


def _bias(body: _Body, variant: Variant) -> None:
    """``bias`` = slopes * distance + mask, and ``LOWEST_FLOAT32`` where the key is hidden."""
    boolean = variant.mask == MaskKind.BOOLEAN.value
    additive = variant.mask == MaskKind.ADDITIVE.value
    body.constant("per_head", "int64", [1, -1, 1, 1], scalar=False)
    body.line("slopes_per_head = Reshape (slopes, per_head)")
    hides = variant.causal or boolean
    bias = "alibi" if hides or additive else "bias"
    body.line(f"{bias} = Mul (slopes_per_head, distance)")
    if hides or additive:
        body.constant("lowest", "float", [LOWEST_FLOAT32])
    if additive:
        # Clipped, so that -inf and +inf cannot meet in a sum and make NaN; ahead of the causal Where, so
        # that a large mask entry does not bring a later key back.
        body.constant("highest", "float", [-LOWEST_FLOAT32])
        body.line(f"mask_float = Cast <to = {_FLOAT}> (mask)")
        body.line(f"{bias}_masked = Add ({bias}, mask_float)")
        output = f"{bias}_clipped" if hides else "bias"
        body.line(f"{output} = Clip ({bias}_masked, lowest, highest)")
        bias = output
    if variant.causal:
        body.line(f"{'later' if boolean else 'hidden'} = Greater (j, row)")
    if boolean:
        body.line(f"{'masked' if variant.causal else 'hidden'} = Not (mask)")
    if variant.causal and boolean:
        body.line("hidden = Or (later, masked)")
    if hides:
        body.line(f"bias = Where (hidden, lowest, {bias})")


def _zero_empty_rows(body: _Body, value: str) -> None:
    """Zeros for the rows whose every key is hidden; outside the attention, so it stays fusable."""
    body.reduce_max_last("best_bias", "bias")
    body.line("has_visible_key = Greater (best_bias, lowest)")
    body.line(f"attended = MatMul (weights_as_query, {value})")
    body.constant("nothing_float", "float", [0.0])
    body.cast_like_query("nothing", "nothing_float")
    body.line("output = Where (has_visible_key, attended, nothing)")
