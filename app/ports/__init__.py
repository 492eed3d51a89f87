"""The Protocols between the engine and the outside world, one module for each subject.

The other rooms implement them (adapters). An adapter translates the errors of its driver: only the errors of
`app.errors` reach the engine.
"""
