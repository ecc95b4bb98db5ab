"""Products and entries of the Hessian and of the Gauss-Newton matrix."""
