"""-slope * |d|: what encoders use.  Where later keys are hidden it is the linear form, so no member is causal."""

from ...algebra import absolute
from .base import Form

SYMMETRIC = Form(
    name="symmetric",
    distance=lambda d: -absolute(d),
    formula="-{slope} * |i + (S_kv - S_q) - j|",
    kernels=True,
)
