"""Normal form and structure: what an expression is, before it is code."""
