"""Read files: Python into rows and scopes, YAML into data."""
