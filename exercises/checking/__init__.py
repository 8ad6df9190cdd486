"""How an exercise is checked: rows of answers and truths, hints, and the table."""
