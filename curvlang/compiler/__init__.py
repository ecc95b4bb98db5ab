"""From a typed chain to passes over the data: simplify, find structure, plan, lower, explain."""
