"""A run in the terminal, on top of `app.client`: how it looks (`view`), what a person is asked (`keys`), a whole run
(`conversation`), where its time went (`chart`)."""
