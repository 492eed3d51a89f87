"""The engine: creates runs, drives each of them from effect to effect, and decides who may see and decide what.

It knows the core (`statemachine`) and the ports, never HTTP, Redis or a model client.
"""
