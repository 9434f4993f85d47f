"""The processes of the node: one loop a file, the same shape in each."""
