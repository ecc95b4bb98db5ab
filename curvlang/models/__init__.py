"""Models as tensors: layers as `a` and `g`, losses and their factors, Hessian, tasks."""
