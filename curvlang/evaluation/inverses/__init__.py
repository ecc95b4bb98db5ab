"""Inverses of an evaluation: what they cost, and those at other models than the evaluated one."""
