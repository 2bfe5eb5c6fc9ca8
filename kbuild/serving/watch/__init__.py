"""What operators see of the server: metrics, spans, logs, health."""
