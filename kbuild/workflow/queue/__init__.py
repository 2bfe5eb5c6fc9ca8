"""F7: builds as jobs of procrastinate in PostgreSQL, done by workers on any number of machines."""
