"""Semantic changes that the fast suite has to see, and the tests that should: data of ``suite_mutation.py``.

A change is a file, a text that is there exactly once, and the text that takes its place.  The first ten survived all
tests of commit b65f32f.
"""

from __future__ import annotations

TESTS = (
    "tests/rewriter/prove/test_proof_rules.py",
    "tests/rewriter/bind/test_mask_binding.py",
    "tests/rewriter/interpret/test_elements.py",
    "tests/rewriter/recognise/test_masks.py",
    "tests/rewriter/prove/test_windows.py",
    "tests/rewriter/interpret/test_number_types.py",
    "tests/rewriter/interpret/test_scopes.py",
    "tests/rewriter/prove/test_assumptions.py",
    "tests/rewriter/prove/test_pinned.py",
    "tests/rewriter/prove/test_empty_rows.py",
    "tests/rewriter/interpret/test_solvers.py",
    "tests/rewriter/interpret/test_equations.py",
    "tests/rewriter/interpret/test_operator_rows.py",
    "tests/rewriter/interpret/test_unknown_shapes.py",
    "tests/rewriter/recognise/test_spellings.py",
    "tests/rewriter/bind/test_key_bias.py",
    "tests/whole/test_golden.py",
    "tests/whole/test_exported.py",
    "tests/patterns/test_operators.py",
    "tests/whole/test_mutants.py",
    "tests/whole/test_mutation.py",
    "tests/algebra/test_algebra.py",
    "tests/rewriter/interpret/test_tables.py",
    "tests/rewriter/interpret/test_semantics.py",
    "tests/whole/test_metamorphic.py",
    "tests/whole/test_attack.py",
)
"""Relevant tests, quick ones first."""

TESTS_OF_NATIVE = (
    "tests/engine/test_plugin_library.py::test_the_library_plans_as_the_model_does",
    "tests/engine/test_plugin_library.py::test_an_alternative_is_the_next_kernel_that_fits",
)
"""For changes of C++, which has to be compiled."""

MUTATIONS: tuple[tuple[str, str, str], ...] = (
    # --- survivors of b65f32f
    ("rewriter/prove/forms.py", "LAST_PLACE = 2.0**-22", "LAST_PLACE = 2.0**-8"),
    ("rewriter/recognise/visibility.py", "if ratio > 0 and is_nonpositive(rest):", "if ratio > 0:"),
    (
        "algebra/cases.py",
        "if all(any(implies(k, c) for k in known) for c in conjuncts(atom.condition)):",
        "if any(any(implies(k, c) for k in known) for c in conjuncts(atom.condition)):",
    ),
    (
        "rewriter/interpret/generators.py",
        "inside.append(less(index, extent + before))",
        "inside.append(less_equal(index, extent + before))",
    ),
    (
        "rewriter/interpret/generators.py",
        "inside.append(less(indices[k], offset + index_dims[axis]))",
        "inside.append(less_equal(indices[k], offset + index_dims[axis]))",
    ),
    (
        "rewriter/emit/nodes.py",
        'self.editor.integers([0], f"{self.site}/first")',
        'self.editor.integers([1], f"{self.site}/first")',
    ),
    (
        "rewriter/interpret/generators.py",
        'if int_attribute(node, "reverse", 0):',
        "if False:",
    ),
    (
        "rewriter/interpret/generators.py",
        '''x[a:b, c:d] = updates."""
    if attribute(node, "reduction", b"none") not in (b"none", "none"):''',
        '''x[a:b, c:d] = updates."""
    if False:''',
    ),
    (
        "rewriter/interpret/arithmetic.py",
        "if not is_nonnegative(left) or not is_nonnegative(right - 1 if b is not None else right):",
        "if not is_nonnegative(right - 1 if b is not None else right):",
    ),
    ("rewriter/interpret/clamps.py", "if span[0] >= floor:", "if True:"),
    # --- the interpreter
    (
        "rewriter/interpret/arithmetic.py",
        "if b is not None else right):\n        return None",
        "if b is not None else right):\n        pass",
    ),
    (
        "rewriter/interpret/arithmetic.py",
        "return chosen if constant else other",
        "return other if constant else chosen",
    ),
    ("rewriter/interpret/clamps.py", "if floor <= lowest:", "if True:"),
    (
        "rewriter/interpret/generators.py",
        '''x[:, 3] = updates."""
    if attribute(node, "reduction", b"none") not in (b"none", "none"):''',
        '''x[:, 3] = updates."""
    if False:''',
    ),
    (
        "rewriter/interpret/generators.py",
        "        index = index + extent\n    there",
        "        index = index\n    there",
    ),
    ("rewriter/interpret/generators.py", "return index if there and is_nonnegative(index) else None", "return index"),
    (
        "rewriter/interpret/generators.py",
        'if attribute(node, "mode", b"constant") not in (b"constant", "constant"):',
        "if False:",
    ),
    ("rewriter/interpret/generators.py", 'own = 0 if int_attribute(node, "exclusive", 0) else 1', "own = 1"),
    (
        "rewriter/interpret/generators.py",
        "return maximum(ZERO, minimum(count, ONE - limit))",
        "return minimum(count, ONE - limit)",
    ),
    (
        "rewriter/interpret/generators.py",
        "kept = less_equal(row + diagonal, column)",
        "kept = less_equal(row, column + diagonal)",
    ),
    (
        "rewriter/interpret/generators.py",
        "kept = less_equal(column, row + diagonal)",
        "kept = less(column, row + diagonal)",
    ),
    (
        "rewriter/interpret/movement.py",
        "return minimum(bound, extent)\n    if is_nonpositive",
        "return bound\n    if is_nonpositive",
    ),
    ("rewriter/interpret/movement.py", "return maximum(ZERO, bound + extent)", "return bound + extent"),
    (
        "rewriter/interpret/movement.py",
        "moved[axis] = first + indices[axis] * step",
        "moved[axis] = first + indices[axis]",
    ),
    ("rewriter/interpret/movement.py", "        return extent + index\n", "        return index\n"),
    ("rewriter/interpret/sizes/room.py", "SMALL = tuple(range(1, 9))", "SMALL = tuple(range(2, 9))"),
    # --- masks
    (
        "rewriter/recognise/visibility.py",
        "return ceiling <= Fraction(HIDDEN_BELOW) and ceiling <= -reach",
        "return ceiling <= Fraction(HIDDEN_BELOW)",
    ),
    (
        "rewriter/recognise/visibility.py",
        "return ceiling <= Fraction(HIDING_WIDE) and ceiling <= -2 * reach",
        "return ceiling <= Fraction(HIDING_WIDE)",
    ),
    (
        "rewriter/recognise/visibility.py",
        "return ceiling <= Fraction(HIDING_WIDE) and ceiling <= -2 * reach",
        "return ceiling <= -2 * reach",
    ),
    (
        "rewriter/recognise/visibility.py",
        "ceiling += max(Fraction(0), Fraction(coefficient))",
        "ceiling += min(Fraction(0), Fraction(coefficient))",
    ),
    ("rewriter/recognise/visibility.py", "if low and not high:", "if low:"),
    ("rewriter/recognise/visibility.py", "elif high and not low:", "elif high:"),
    ("rewriter/recognise/visibility.py", "elif ratio < 0 and is_nonpositive(-rest):", "elif ratio < 0:"),
    ("algebra/cases.py", "elif any(implies(k, opposite) for k in known):", "elif known:"),
    (
        "rewriter/recognise/visibility.py",
        "if quotient.terms and factor == quotient * (ramp / scale):",
        "if quotient.terms:",
    ),
    # --- the proof
    ("rewriter/prove/proof.py", "            if value == distance:", "            if not is_nonpositive(value):"),
    ("rewriter/prove/terms.py", "if whole_numbers and named <= allowed:", "if named <= allowed:"),
    ("rewriter/prove/terms.py", "if whole_numbers and named <= allowed:", "if whole_numbers:"),
    ("rewriter/prove/terms.py", "if any(a == frame.key or isinstance(a, Min0) for a, _ in place):", "if False:"),
    ("rewriter/prove/forms.py", "linear = linear - factor * rises", "linear = linear + factor * rises"),
    ("rewriter/prove/proof.py", "elif factor.terms:\n            shift", "elif False:\n            shift"),
    ("rewriter/prove/proof.py", "    _check_shift(attention)\n", ""),
    (
        "rewriter/prove/terms.py",
        "if frame.key in atoms:\n            check_types",
        "if False:\n            check_types",
    ),
    ("rewriter/prove/terms.py", "and not whole_is_finite(whole)", "and False"),
    ("rewriter/prove/terms.py", "if place == ((frame.key, 1),):", "if place[0][0] == frame.key:"),
    # --- the reading
    (
        "rewriter/recognise/softmax.py",
        "if not any(x.depends_on(row) for x in key_side) and any(x.depends_on(row) for x in query_side):",
        "if any(x.depends_on(row) for x in query_side):",
    ),
    (
        "rewriter/recognise/softmax.py",
        "scale=score.scale * query_view.factor * key_view.factor,",
        "scale=score.scale * query_view.factor,",
    ),
    (
        "rewriter/recognise/softmax.py",
        "return (right, left) if any(x.depends_on(key) for x in product.left_index) else (left, right)",
        "return left, right",
    ),
    ("rewriter/recognise/softmax.py", "return key_head(view, frame.head) == heads", "return True"),
    ("rewriter/recognise/softmax.py", "if found is None or found.factor != 1:", "if found is None:"),
    # --- mask plan and emitter
    (
        "rewriter/bind/masks.py",
        "            inverted = True\n        elif condition.kind",
        "            inverted = False\n        elif condition.kind",
    ),
    ("rewriter/bind/masks.py", "if not hidden & missing or not hidden <= allowed:", "if not hidden & missing:"),
    ("rewriter/bind/masks.py", "bound = -value.constant_term", "bound = value.constant_term"),
    (
        "rewriter/bind/masks.py",
        'parts[0] if len(parts) == 1 else Op("and", tuple(parts))',
        'parts[0] if len(parts) == 1 else Op("or", tuple(parts))',
    ),
    (
        "rewriter/bind/masks.py",
        "rows = tuple(c for c in proof.hidden if key not in c.all_atoms())",
        "rows: tuple[Cond, ...] = ()",
    ),
    ("rewriter/emit/nodes.py", '"Div" if self.binding.divide else "Mul"', '"Mul"'),
    ("rewriter/emit/nodes.py", "present.index(r) for r in order", "order.index(r) for r in present"),
    # --- how launches are planned
    ("native/core/plan.cpp", "if (skip-- == 0) break;", "if (skip-- <= 1) break;"),
    ("native/core/plan.cpp", "if (!kernel.maskRows && layout_.maskRows) return false;", ""),
    ("native/core/plan.cpp", "if (kernel.contiguous && !layout_.contiguous) return false;", ""),
    ("native/core/plan.cpp", "operand.strides[axis] * bytes % 16 == 0", "operand.strides[axis] * bytes % 8 == 0"),
    ("native/core/plan.cpp", "at(sizes, Size::surplus) = sKv - sQ;", "at(sizes, Size::surplus) = sQ - sKv;"),
    (
        "native/core/plan.cpp",
        "at(plan.sizes, Size::rows) <= bundle.selection.decodeRows",
        "at(plan.sizes, Size::rows) < bundle.selection.decodeRows",
    ),
    (
        "native/core/plan.cpp",
        "sum(bytes, kWorkspaceAlignment - 1) / kWorkspaceAlignment",
        "bytes / kWorkspaceAlignment",
    ),
)

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "rewriter/recognise/softmax.py",
        "if not any(x.depends_on(row) for x in key_side) and any(x.depends_on(row) for x in query_side):",
        "if any(x.depends_on(row) for x in query_side):",
    ): "a reading in which keys depend on the row finds no layout of the keys: it is dropped one step later",
}
"""Changes after which the code means the same, and why."""
