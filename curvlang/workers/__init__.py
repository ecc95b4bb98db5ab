"""Work in units, each a pure function: done here, by the processes of a group, or by the workers of Dask."""
