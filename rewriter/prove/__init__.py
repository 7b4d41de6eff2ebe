"""The proof that slope times distance, a mask and nothing else is added to the scores."""
