from .pipeline import create_pipeline  # NOQA
