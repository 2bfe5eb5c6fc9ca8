"""conda-lock as the resolver, and the conda solver that it calls."""
