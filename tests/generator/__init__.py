"""Random attention models in many spellings, with the truth about their bias, and near misses of the same making.

A model is described by a ``Spelling``.  ``build`` writes it, ``truth`` says what its slopes are, and ``difference``
compares an original with its rewritten form in onnxruntime.  Only ``attack`` uses the pass.

    spelling.py   the fields of a spelling, and what they may be
    draw.py       random spellings, and simpler ones
    valid.py      the nearest spelling that makes a valid model, as rows (when, then)
    graph.py      nodes and constants under construction
    model.py      a whole model
    parts/        its parts: layout, positions, slopes, bias, tables, masks, scale, scores
    misses/       what makes a model no ALiBi attention: a function per near miss
    truth.py      the slopes that a proof has to find
    runs.py       inputs to run it with
    judge.py      original against rewritten
"""

from __future__ import annotations

from .draw import sample, shrink
from .judge import (
    Difference,
    Verdict,
    attack,
    difference,
    reported_slopes,
    right,
    session,
    slopes_match,
    tolerance,
)
from .misses import LONG_MISSES, MISSES, MUST_REFUSE
from .model import build
from .runs import feeds, mask_patterns, shapes, spread
from .spelling import BUFFER, CHOICES, SYMMETRIC, Spelling, told
from .truth import truth
from .valid import repair

__all__ = [
    "BUFFER",
    "CHOICES",
    "LONG_MISSES",
    "MISSES",
    "MUST_REFUSE",
    "SYMMETRIC",
    "Difference",
    "Spelling",
    "Verdict",
    "attack",
    "build",
    "difference",
    "feeds",
    "mask_patterns",
    "repair",
    "reported_slopes",
    "right",
    "sample",
    "session",
    "shapes",
    "shrink",
    "slopes_match",
    "spread",
    "told",
    "tolerance",
    "truth",
]
