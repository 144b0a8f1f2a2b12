"""Joules and seconds of kernels, measured on a GPU at hand: the rows that `energylens calibrate` makes a profile of."""
