"""``alibi_rewriter.fused.family`` under its old name, for one release."""

from ..fused.family import *  # noqa: F403
