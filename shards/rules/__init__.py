"""How a cut flows through a node: one rule per kind of operator, read in both directions."""

from __future__ import annotations

from ..question import Rule
from .attention import FUSED
from .features import ALONG_AXES, FEATURES
from .movement import MOVEMENT
from .products import PRODUCTS
from .reshape import RESHAPES

RULES: dict[tuple[str, str], Rule] = {**FEATURES, **ALONG_AXES, **MOVEMENT, **RESHAPES, **PRODUCTS, **FUSED}
"""By domain and op_type.  What is not here acts across what is cut, as far as is known."""

__all__ = ["RULES"]
