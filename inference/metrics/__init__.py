"""Metrics of trained models: bounds, exact likelihoods, linear probes, sample accuracy."""
