"""What importing the module does, and does not do."""
