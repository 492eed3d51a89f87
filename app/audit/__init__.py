"""The record of decisions: chains of entries that cannot be changed unnoticed, their verification, and their export."""
