"""What a person sees: the live view in the terminal and the report."""
