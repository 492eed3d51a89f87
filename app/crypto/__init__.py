"""The keys of the service, one for each purpose, and what is authenticated with them."""
