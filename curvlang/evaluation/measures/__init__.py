"""Ground truths beyond subsets: each gives one number with its interval for every curvature."""
