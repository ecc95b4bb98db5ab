"""Commands about the machine that curvlang runs on, and the shell."""
