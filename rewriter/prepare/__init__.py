"""A working copy that is easier to read: normalised, packed operators unpacked."""
