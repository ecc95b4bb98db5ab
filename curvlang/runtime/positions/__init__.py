"""Which positions of a layer count: those of a mask, and what each weighs in a mean."""
