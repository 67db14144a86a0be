"""Sources of text with exact answers, to measure language models against."""
