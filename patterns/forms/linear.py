"""slope * j: what decoders use.  The only form in which the row's own position does not matter."""

from .base import Form, Members

LINEAR = Form(
    name="linear",
    distance=lambda d: d,
    formula="{slope} * j",
    members=(Members(causal=True), Members(causal=True, positions=True), Members(), Members(positions=True)),
    kernels=True,
)
