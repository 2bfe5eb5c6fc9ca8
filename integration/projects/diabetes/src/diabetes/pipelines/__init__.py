"""How the functions are put together."""
