"""Semantic changes that the fast suite has to see, and the tests that should: data of ``suite_mutation.py``.

A change is a file, a text that is there exactly once, and the text that takes its place.  The first ten survived all
tests of commit b65f32f.
"""

from __future__ import annotations

TESTS = (
    *("tests/test_proof_rules.py", "tests/test_elements.py", "tests/test_spellings.py", "tests/test_golden.py"),
    *("tests/test_assumptions.py", "tests/test_exported.py", "tests/semantics", "tests/test_mutation.py"),
    *("tests/test_algebra.py", "tests/test_tables.py", "tests/test_metamorphic.py", "tests/test_attack.py"),
    "tests/test_mutants.py",
)
"""Relevant tests, quick ones first."""

MUTATIONS: tuple[tuple[str, str, str], ...] = (
    # --- survivors of b65f32f
    ("rewriter/prove.py", "np.maximum(np.abs(a), np.abs(b)) * 2.0**-22", "np.maximum(np.abs(a), np.abs(b)) * 2.0**-8"),
    ("rewriter/masks.py", "if ratio > 0 and is_nonpositive(rest):", "if ratio > 0:"),
    (
        "rewriter/masks.py",
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
        "rewriter/interpret/generators.py",
        'if not axes or int_attribute(node, "reverse", 0):',
        "if not axes:",
    ),
    (
        "rewriter/emit.py",
        'self.editor.integers([0], f"{self.site}/first")',
        'self.editor.integers([1], f"{self.site}/first")',
    ),
)

EQUIVALENT: dict[tuple[str, str, str], str] = {}
"""Changes after which the code means the same, and why."""
