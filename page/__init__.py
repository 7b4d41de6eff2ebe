"""The report as one self-contained page: no script, no network, everything escaped."""

from __future__ import annotations

from .document import to_html

__all__ = ["to_html"]
