"""Jinja2 templates: headers and teaching comments, never logic."""
