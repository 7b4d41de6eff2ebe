"""The forms of an ALiBi bias, one record each.  Every module that has to know a form asks its record.

A new form is a file beside these and a line in ``FORMS``; ``CONTRIBUTING.md`` has the rest of the recipe.
"""

from __future__ import annotations

from .base import Form, Members
from .linear import LINEAR
from .symmetric import SYMMETRIC

FORMS: tuple[Form, ...] = (
    LINEAR,
    SYMMETRIC,
)
"""In the order in which they are tried: the first that fits is taken."""

BY_NAME: dict[str, Form] = {form.name: form for form in FORMS}

__all__ = ["BY_NAME", "FORMS", "LINEAR", "SYMMETRIC", "Form", "Members"]
