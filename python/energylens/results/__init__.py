"""What an evaluation gives: results, predictions, points, comparisons, breakdowns."""
