"""MLflow's tracking servers and registries: what training and builds both know of them."""
