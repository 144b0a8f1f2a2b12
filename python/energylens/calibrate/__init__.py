"""Fits of GPU profiles to measured kernels, kernel power and serving runs."""
