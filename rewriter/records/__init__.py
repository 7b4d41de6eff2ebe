"""What the phases of the pass hand on: frozen facts about sites, without logic."""
