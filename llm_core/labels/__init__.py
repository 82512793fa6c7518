"""Labelling: tasks for people, their answers in Label Studio's JSON, how far they agree, and the labels that count."""
