"""Which items a positive is told from: negatives, drawn from the stream itself."""
