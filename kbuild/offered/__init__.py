"""F0: how what `import kbuild` offers is called, and shown in a notebook."""
