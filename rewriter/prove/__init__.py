"""What is added to the scores is slope times distance, a mask, and nothing else."""
