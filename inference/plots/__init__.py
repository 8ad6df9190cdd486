"""Figures: curves, images, points, plate diagrams and masks."""
