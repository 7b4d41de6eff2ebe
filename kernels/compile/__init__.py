"""From a request to images: configurations, compiler, cache."""
