"""Atlases: template, annotation and ontology in one known frame."""
