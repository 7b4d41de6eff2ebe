"""The pass itself: reading, proving, editing, verifying.  See ``docs/architecture.md``."""
