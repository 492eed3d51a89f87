"""A run in the terminal, on top of `app.client`: output (`view`), input (`keys`), the flow of one run
(`conversation`), and the chart of its timeline (`chart`)."""
