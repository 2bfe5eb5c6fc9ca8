"""What pickles hold and would do, told without loading any: found in files, read, and judged by their names."""
