"""F4: engines that build and publishers that deliver."""
