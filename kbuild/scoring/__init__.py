"""Scoring tables with a served model; ships in archives (``kbuild pack``), beside what ships in images."""
