"""Blocks of the parameter vector finer and coarser than layers."""
