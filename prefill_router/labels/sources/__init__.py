"""Label tables made of evaluation logs, and of the results in public repositories."""
