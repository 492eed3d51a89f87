"""Tests of the README files: their code blocks run, their links and names exist, their generated parts are current."""
