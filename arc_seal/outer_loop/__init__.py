"""The policy that writes self-edits; the loop that trains it follows."""
