"""Why a site was rewritten or refused: the formula, every step of the proof, and where in the model it rests.

This package reads finished verdicts and never takes part in them.
"""

from __future__ import annotations

from .explanation import Explanation, explain
from .extract import Pair, write_pairs
from .look import Look
from .pictures import page_facts
from .places import Place

__all__ = ["Explanation", "Look", "Pair", "Place", "explain", "page_facts", "write_pairs"]
