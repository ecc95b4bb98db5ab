"""The version, in one place; the package's metadata is checked against it."""

VERSION = "0.2.0"
