"""`aura chaos`: real nodes on a real Redis, runs with tools and approvals going, and everything killed at any moment.

A seed makes the plan (`plan`), the plan happens (`cluster`, `link`, `clients`, `start_environment`, `trial`), and what came of it
is compared with what should have (`takeover`, `verdict`, `report`). All on 127.0.0.1; nothing is left behind.
"""
