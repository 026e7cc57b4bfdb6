"""Answers of targets: generated here or asked for, graded, and paid for once."""
