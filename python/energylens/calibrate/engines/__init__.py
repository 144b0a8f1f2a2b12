"""What an engine adds to its kernels, fitted to measured serving runs."""
