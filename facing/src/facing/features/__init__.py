"""What a page can show besides notes and code, a feature a file."""
