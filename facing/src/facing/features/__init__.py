"""What pages show besides notes and code, each feature in modules of its own."""
