"""A profile of a GPU that was measured here."""
