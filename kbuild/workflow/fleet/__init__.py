"""Many models as a team has them: shared out among machines, and kept in step with MLflow's registry."""
