"""Softmaxes that are written out and masks inside operators become nodes, so that one analysis reads all."""
