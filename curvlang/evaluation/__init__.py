"""One engine: errors of curvatures, ground truth, LDS and comparisons, and studies made of them."""
