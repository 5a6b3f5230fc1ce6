"""The verbs: one file a verb, the story of that job in one readable page."""
