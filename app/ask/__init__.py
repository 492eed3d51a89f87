"""A client of the service for the terminal: the stream (`frames`, `client`), how it looks (`view`), what a person is
asked (`keys`), a whole run (`conversation`). Speaks HTTP only; knows nothing of the service's insides."""
