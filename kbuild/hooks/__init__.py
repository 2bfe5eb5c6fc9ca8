"""SIDE WING: what Kedro calls while it runs."""
