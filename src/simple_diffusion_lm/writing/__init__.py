"""Text from a trained model, as users ask for it: templates, lengths, words, candidates, variations."""
