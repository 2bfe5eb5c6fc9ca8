"""From a request to the model's answer."""
