"""From images to launches: descriptions, plans, the launcher."""
