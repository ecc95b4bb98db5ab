"""A fitted curvature at work besides scores: the evidence of Laplace's approximation, natural gradients."""
