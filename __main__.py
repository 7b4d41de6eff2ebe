"""``python -m alibi_rewriter`` is ``rewrite``."""

from __future__ import annotations

import sys

from .base.isolation import leave_working_folder

leave_working_folder()  # -m puts it first on the search path

from .entry import main  # noqa: E402

sys.exit(main())
