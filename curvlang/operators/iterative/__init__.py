"""Inverses known by iteration."""
