"""What a person reads: the answer in a sentence, tables, breakdowns."""
