"""The ONNX function body of the fused node: ``docs/specification.md`` written as ONNX text.

The body is what runs where no kernel is registered for the node (onnxruntime, or TensorRT without the
plugin), so its form is chosen for speed there, for TensorRT's own attention fusion and for its meaning:

* the scale multiplies the query, in the query's type, ahead of the first matrix product;
* the bias is *computed* from ranges, relative to the row, and everything that hides a key sits inside the
  expression that is added (a ``Where`` after the addition, or a second addition for the masks, costs a
  materialised S_q x S_kv tensor);
* distance, causality, window and masks do not depend on the head and are computed once for all heads.  Per head there
  are two passes over S_q x S_kv ahead of the sum with the dot products, one where nothing is hidden;
* what depends on nothing but inputs that layers share stands apart, and sizes are read from such inputs where that is
  known to be right (``KnownSizes``): runtimes compute equal expressions once for all layers;
* between the two matrix products everything is float32, also if a converter to 16 bits has narrowed the slopes;
* behind products of 16 bits the linear distance counts from the last row for all rows.  It depends on the key alone
  then and saves a pass over S_q x S_kv per head.  The softmax does not see the difference.  What it costs, half a unit
  of float32 at slope times length, is less than what the products have lost.

A hidden key gets the score ``LOWEST_FLOAT32`` exactly.  Dot product and bias are far below half a unit in its last
place, so the sum absorbs them.  A row in which all keys are hidden therefore has equal scores
everywhere, and Softmax yields the mean of all values, never NaN.  What key lengths add is in ``lengths.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import onnx
import onnx.parser

from ..algebra import of
from ..patterns.forms.base import DISTANCE as SIGNED
from . import lengths
from .distance import write_distance
from .family import DOMAIN, LOWEST_FLOAT32, UNBOUNDED, Alignment, MaskKind, Variant
from .layout import NO_MOVES, OPERANDS, Moves
from .operand import view_attributes, write_operand
from .text import Body

MINIMUM_OPSET = 11
"""Range, Clip with tensor bounds and Gather on negative axes all exist from here on."""

WINDOW_OPSET = 12
"""Members with a window need this one, since before it no operator makes a tensor of an integer attribute."""

VIEWS_OPSET = 12
"""Views that are cut out of a tensor need this one, for the same reason."""

# Values of the body by which the verifier and its mutants find their way in it.
SCORES = "scores"
"""What enters the softmax, [B, H, S_q, S_kv]."""
DISTANCE = "distance"
"""d(i, j), which broadcasts to [B, 1, S_q, S_kv]; a number that is the same for a whole row may be missing."""
SLOPES_PER_HEAD = "slopes_per_head"
"""The slopes, [1, H, 1, 1]; the one product with the distance is the bias."""
KEYS = "keys"
"""S_kv consecutive numbers, int64."""
KEY_COUNT = "S_kv"
"""A scalar, int64."""
ROWS = "rows_float"
"""row(i) of all rows, float32 [S_q], counted as the keys are."""

NARROW = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
"""Types of 16 bits."""

RESULT_HEADS = "output_heads"
"""The output [B, H, S_q, D_v] where it goes elsewhere."""

_BEYOND_ANY = 1 << 24
"""Further than any two keys are from each other."""

_FLOAT = onnx.TensorProto.FLOAT
_INT64 = onnx.TensorProto.INT64


class Rows(Enum):
    """What tells S_q."""

    QUERY = "query"
    MASK = "the mask, which has rows"
    KEYS = "S_kv, which it equals"


@dataclass(frozen=True)
class KnownSizes:
    """What is known of sizes in all nodes of one op_type in a file.

    Attributes:
        rows: What tells S_q.
        keys_in_mask: The mask's last extent is S_kv and not 1.
    """

    rows: Rows = Rows.QUERY
    keys_in_mask: bool = False


OWN = KnownSizes()
"""Nothing: every node reads its sizes from its query and its key."""


def possible_sizes(variant: Variant) -> list[KnownSizes]:
    """All that may be known of the nodes of a member."""
    masked = variant.mask != MaskKind.NONE.value
    return [
        KnownSizes(rows, keys)
        for rows in Rows
        if masked or rows is not Rows.MASK
        for keys in (False, True)[: 1 + masked]
    ]


def function_proto(
    variant: Variant,
    opset: int,
    *,
    grouped: bool,
    zero_rows: bool,
    query_type: int,
    moves: Moves = NO_MOVES,
    sizes: KnownSizes = OWN,
    aligned: Alignment = Alignment.LAST,
) -> onnx.FunctionProto:
    """Builds the function body of one member of the family.

    Args:
        variant: The member; decides name, inputs and bias.
        opset: Version of the default domain the body is written for; the model's own.
        grouped: Whether any node of this op_type in the file has fewer key heads than query heads.
        zero_rows: Whether rows without a visible key yield zeros instead of the mean of all values.  It
            holds for every node that uses this body.
        query_type: ``TensorProto`` type of query, key and value.  Its width decides where distances are counted from.
            A body for an opset below 15 depends on the type itself (there is no CastLike).
        moves: What has to be done about the layouts of the nodes that use this body.
        sizes: What is known of sizes.
        aligned: Which keys the queries of members with key lengths belong to.  It holds for every node that uses this
            body.

    Returns:
        A function in domain ``alibi`` named ``variant.op_type`` with the attribute ``scale``, and those of a window, of
        the form and of the views that are moved.

    Raises:
        ValueError: If ``opset`` is below 11, or below 12 for a member with a window and for views that are cut.
    """
    return onnx.parser.parse_function(
        function_text(
            variant,
            opset,
            grouped=grouped,
            zero_rows=zero_rows,
            query_type=query_type,
            moves=moves,
            sizes=sizes,
            aligned=aligned,
        )
    )


def function_text(
    variant: Variant,
    opset: int,
    *,
    grouped: bool,
    zero_rows: bool,
    query_type: int,
    moves: Moves = NO_MOVES,
    sizes: KnownSizes = OWN,
    aligned: Alignment = Alignment.LAST,
) -> str:
    """The text behind :func:`function_proto`, with the same arguments and errors."""
    cuts = moves.reshaped or moves.sliced
    least = max(MINIMUM_OPSET, WINDOW_OPSET if variant.window else 0, VIEWS_OPSET if cuts else 0)
    if opset < least:
        raise ValueError(f"the function body of {variant.op_type} needs opset {least} or later, not {opset}")
    body = Body(opset, query_type)
    query, key, value = (write_operand(body, name, moves) for name in OPERANDS)
    rows = _sizes(body, variant, sizes, query, key)
    if grouped:
        key, value = _heads(body, query, key, value)
    # dots = scale * query . key
    _scale(body)
    body.line(f"scaled_query = Mul ({query}, scale)")
    body.line(f"key_transposed = Transpose <perm = [0, 1, 3, 2]> ({key})")
    body.line("dots_as_query = MatMul (scaled_query, key_transposed)")
    body.line(f"dots = Cast <to = {_FLOAT}> (dots_as_query)")
    by_key = query_type in NARROW and variant.bias.symbolic == of(SIGNED)
    if variant.lengths:
        _distance_by_length(body, variant, rows, aligned, by_key=by_key)
    elif by_key:
        _distance_by_key(body, variant, rows)
    else:
        _distance(body, variant, rows)
    added = _bias(body, variant, aligned)
    body.line(f"{SCORES} = Add (dots, bias)")
    body.line(f"weights = Softmax <axis = -1> ({SCORES})")
    body.cast_like_query("weights_as_query", "weights")
    result = RESULT_HEADS if "output" in moves.transposed | moves.reshaped else "output"
    guards = [_has_visible_key(body, added)] if zero_rows and variant.can_hide else []
    guards += [lengths.HAS_KEYS] if variant.lengths else []
    _attend(body, value, guards, result)
    _result(body, moves)
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>'
    window = ("window_left", "window_right") if variant.window else ()
    attributes = (
        "scale",
        *window,
        *variant.bias.attributes,
        *(a for name in (*OPERANDS, "output") for a in view_attributes(name, moves)),
    )
    signature = f"{variant.op_type} <{', '.join(attributes)}> ({', '.join(variant.inputs)}) => (output)"
    return "\n".join([header, signature, "{", *body.lines, "}", ""])


def _result(body: Body, moves: Moves) -> None:
    """The output in the node's layout."""
    current = RESULT_HEADS
    if "output" in moves.transposed:
        moved = "output_rows" if "output" in moves.reshaped else "output"
        body.line(f"{moved} = Transpose <perm: ints = @output_perm> ({current})")
        current = moved
    if "output" in moves.reshaped:
        body.line("output_merged = Constant <value_ints: ints = @output_shape> ()")
        body.line(f"output = Reshape ({current}, output_merged)")


def _scale(body: Body) -> None:
    """``scale``: the node's attribute as a scalar of the query's type."""
    body.attribute("scale_float", "scale")
    body.cast_like_query("scale", "scale_float")


def _sizes(body: Body, variant: Variant, sizes: KnownSizes, query: str, key: str) -> str:
    """Writes S_kv, and S_q where it is another number; returns what S_q is called."""
    holder, axis = key, 2
    if variant.positions:
        holder, axis = "key_positions", 1
    elif variant.key_bias:
        holder, axis = "key_bias", 2
    elif sizes.keys_in_mask:
        holder, axis = "mask", 3
    body.extent(KEY_COUNT, holder, axis)
    if sizes.rows is Rows.KEYS:
        return KEY_COUNT
    body.extent("S_q", "mask" if sizes.rows is Rows.MASK else query, 2)
    return "S_q"


def _heads(body: Body, query: str, key: str, value: str) -> tuple[str, str]:
    """Key and value with as many heads as the query: ``x[b, h // G]``."""
    body.line(f"query_shape = Shape ({query})")
    body.line(f"key_shape = Shape ({key})")
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
    for name, operand in (("key", key), ("value", value)):
        body.unsqueeze(f"{name}_groups", operand, [2])
        body.line(f"{name}_copies = Expand ({name}_groups, repeats)")
        body.line(f"{name}_repeated = Reshape ({name}_copies, repeated_shape)")
    return "key_repeated", "value_repeated"


def _distance_by_key(body: Body, variant: Variant, row_count: str) -> None:
    """d(S_q - 1, j) in float32, and ``j`` [1,1,1,S_kv] and ``row`` [1,1,S_q,1] behind it, both less S_kv - 1."""
    body.constant("one", "int64", [1])
    body.line(f"first_key = Sub (one, {KEY_COUNT})")
    body.line(f"{KEYS} = Range (first_key, one, one)")
    body.line(f"keys_float = Cast <to = {_FLOAT}> ({KEYS})")
    body.unsqueeze("j", "keys_float", [0, 1, 2])
    if variant.causal or variant.window:
        body.line(f"first_row = Sub (one, {row_count})")
        body.line("rows = Range (first_row, one, one)")
        body.line(f"{ROWS} = Cast <to = {_FLOAT}> (rows)")
        body.unsqueeze("row", ROWS, [0, 1, 3])
    if not variant.positions:
        body.line(f"{DISTANCE} = Identity (j)")
        return
    body.constant("last_dim", "int64", [-1], scalar=False)
    body.line(f"positions_float = Cast <to = {_FLOAT}> (key_positions)")
    body.line("last_position = Gather <axis = 1> (positions_float, last_dim)")
    body.line("positions_before = Sub (positions_float, last_position)")
    body.unsqueeze(DISTANCE, "positions_before", [1, 2])


def _distance(body: Body, variant: Variant, row_count: str) -> None:
    """d(i, j) in float32, and ``j`` [1,1,1,S_kv] and ``row`` [1,1,S_q,1] behind it."""
    body.constant("zero", "int64", [0])
    body.constant("one", "int64", [1])
    # row(i) = i + (S_kv - S_q) counts from S_kv - S_q up to the last key.
    body.line(f"first_row = Sub ({KEY_COUNT}, {row_count})")
    body.line(f"{KEYS} = Range (zero, {KEY_COUNT}, one)")
    body.line(f"rows = Range (first_row, {KEY_COUNT}, one)")
    body.line(f"keys_float = Cast <to = {_FLOAT}> ({KEYS})")
    body.line(f"{ROWS} = Cast <to = {_FLOAT}> (rows)")
    if variant.causal or variant.window or not variant.positions:
        body.unsqueeze("j", "keys_float", [0, 1, 2])
        body.unsqueeze("row", ROWS, [0, 1, 3])
    if variant.positions:
        body.constant("zero_float", "float", [0.0])
        body.line(f"rows_clamped = Max ({ROWS}, zero_float)")
        body.line(f"row_keys = Cast <to = {_INT64}> (rows_clamped)")
        body.line(f"positions_float = Cast <to = {_FLOAT}> (key_positions)")
        body.line("row_positions = Gather <axis = 1> (positions_float, row_keys)")
        body.unsqueeze("p_j", "positions_float", [1, 2])
        body.unsqueeze("p_row", "row_positions", [1, 3])
        body.line(f"{DISTANCE} = Sub (p_j, p_row)")
    else:
        write_distance(body, variant.bias, DISTANCE)


def _distance_by_length(body: Body, variant: Variant, row_count: str, aligned: Alignment, *, by_key: bool) -> None:
    """d(i, j), or d of the last key by key, where every batch has keys of its own number."""
    body.constant("zero", "int64", [0])
    body.constant("one", "int64", [1])
    body.line(f"{KEYS} = Range (zero, {KEY_COUNT}, one)")
    body.line(f"keys_float = Cast <to = {_FLOAT}> ({KEYS})")
    body.unsqueeze("j", "keys_float", [0, 1, 2])
    lengths.write(body, KEY_COUNT)
    if variant.causal or variant.window or not by_key:
        body.line(f"rows = Range (zero, {row_count}, one)")
        body.line(f"{ROWS} = Cast <to = {_FLOAT}> (rows)")
        lengths.write_rows(body, ROWS, row_count, aligned)
    if by_key:
        lengths.write_distance_by_key(body, DISTANCE)
    else:
        write_distance(body, variant.bias, DISTANCE)


def _bias(body: Body, variant: Variant, aligned: Alignment) -> str:
    """``bias`` = slopes * distance + what does not depend on the slopes; returns the latter's name, or nothing."""
    body.constant("per_head", "int64", [1, -1, 1, 1], scalar=False)
    body.line(f"slopes_float = Cast <to = {_FLOAT}> (slopes)")
    body.line(f"{SLOPES_PER_HEAD} = Reshape (slopes_float, per_head)")
    body.line(f"{'alibi' if variant.can_hide else 'bias'} = Mul ({SLOPES_PER_HEAD}, {DISTANCE})")
    if not variant.can_hide:
        return ""
    added = _added(body, variant, aligned)
    body.line(f"bias = Add (alibi, {added})")
    return added


def _added(body: Body, variant: Variant, aligned: Alignment) -> str:
    """Mask and key bias, and ``LOWEST_FLOAT32`` where a key is hidden, the same for all heads where masks are.

    Where there are no keys any more, both are minus infinity.
    """
    body.constant("lowest", "float", [LOWEST_FLOAT32])
    terms = _terms(body, variant)
    if len(terms) == 2:
        # One may be the lowest and the other the highest number.  Their sum alone would not hide.
        body.line(f"lower = Min ({terms[0]}, {terms[1]})")
        body.line("shows = Greater (lower, lowest)")
        body.line(f"both = Add ({terms[0]}, {terms[1]})")
        body.line("both_clipped = Clip (both, lowest, highest)")
        body.line("both_shown = Where (shows, both_clipped, lowest)")
        added = "both_shown"
    elif terms:
        added = terms[0]
    else:
        body.constant("nothing_added", "float", [0.0])
        added = "nothing_added"
    lowest = lengths.write_hidden(body) if variant.lengths else "lowest"
    # Rows end with the last key then, so what hides later keys hides what is behind the keys, too.
    if variant.lengths and not (variant.causal and aligned is Alignment.LAST):
        added = lengths.write_shown(body, added)
    if variant.mask == MaskKind.BOOLEAN.value:
        body.line(f"shown = Where (mask, {added}, {lowest})")
        added = "shown"
    # Last comes what differs between layers for a runtime that does not know that their rows are as many.
    hidden = _outside(body, variant)
    if len(hidden) == 2:
        body.line(f"outside = Or ({hidden[0]}, {hidden[1]})")
        hidden = ["outside"]
    if not hidden:
        return added
    body.line(f"added = Where ({hidden[0]}, {lowest}, {added})")
    return "added"


def _outside(body: Body, variant: Variant) -> list[str]:
    """Conditions under which position alone hides a key: later than the row, or beyond a window."""
    if not variant.window:
        if variant.causal:
            body.line("later = Greater (j, row)")
        return ["later"] if variant.causal else []
    body.constant("unbounded", "int64", [UNBOUNDED])
    body.constant("beyond_any", "int64", [_BEYOND_ANY])
    for side in ("left", "right"):
        body.line(f"window_{side} = Constant <value_int: int = @window_{side}> ()")
        body.line(f"{side}_is_open = Equal (window_{side}, unbounded)")
        body.line(f"{side}_keys = Where ({side}_is_open, beyond_any, window_{side})")
        body.line(f"{side}_reach = Cast <to = {_FLOAT}> ({side}_keys)")
    body.line("first_in_window = Sub (row, left_reach)")
    # A window of a causal node ends at the row, if not before.
    body.line(f"{'end_of_window' if variant.causal else 'last_in_window'} = Add (row, right_reach)")
    if variant.causal:
        body.line("last_in_window = Min (end_of_window, row)")
    body.line("too_far_left = Less (j, first_in_window)")
    body.line("too_far_right = Greater (j, last_in_window)")
    return ["too_far_left", "too_far_right"]


def _terms(body: Body, variant: Variant) -> list[str]:
    """What is added to visible scores, between the lowest and the highest finite float32.

    Clipped, so that -inf and +inf cannot meet in a sum and make NaN; and ahead of what hides by position, so that
    a large entry does not bring a later key back.
    """
    terms = []
    additive = variant.mask == MaskKind.ADDITIVE.value
    if additive or variant.key_bias:
        body.constant("highest", "float", [-LOWEST_FLOAT32])
    if additive:
        body.line(f"mask_float = Cast <to = {_FLOAT}> (mask)")
        body.line("mask_clipped = Clip (mask_float, lowest, highest)")
        terms.append("mask_clipped")
    if variant.key_bias:
        body.line(f"key_bias_float = Cast <to = {_FLOAT}> (key_bias)")
        body.unsqueeze("key_bias_per_row", "key_bias_float", [2])
        body.line("key_bias_clipped = Clip (key_bias_per_row, lowest, highest)")
        terms.append("key_bias_clipped")
    return terms


def _has_visible_key(body: Body, added: str) -> str:
    """Which rows have a key that is not hidden."""
    body.reduce_max_last("best_added", added)
    body.line("has_visible_key = Greater (best_added, lowest)")
    return "has_visible_key"


def _attend(body: Body, value: str, guards: Sequence[str], result: str) -> None:
    """The product with the values, and zeros where a guard says no; outside the attention, so it stays fusable."""
    if not guards:
        body.line(f"{result} = MatMul (weights_as_query, {value})")
        return
    if len(guards) == 2:
        body.line(f"has_answer = And ({guards[0]}, {guards[1]})")
        guards = ["has_answer"]
    body.line(f"attended = MatMul (weights_as_query, {value})")
    body.constant("nothing_float", "float", [0.0])
    body.cast_like_query("nothing", "nothing_float")
    body.line(f"{result} = Where ({guards[0]}, attended, nothing)")
