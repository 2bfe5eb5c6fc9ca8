"""The version, in a module of its own: nobody has to import the package root for it."""

__version__ = "0.1.0"
