"""Of a model's files those whose digests its record notes, and whoever reads the model compares."""

NOTED = ("conda.yaml", "constraints.txt", "python_env.yaml")
"""What says which packages the model needs, and is written with a last line that ends: so who reads one that ends
within a line, and is not what was logged, knows that it was cut. MLflow ends no ``requirements.txt`` with a line, and
nobody could tell one that was cut from one that ``update_model_requirements`` wrote; an image's packages are those of
``conda.yaml``."""
