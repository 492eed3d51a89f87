"""What a text looks like to a person: hidden characters, look-alike characters, and the domains of addresses."""
