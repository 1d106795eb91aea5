"""Pictures of what was fitted; needs matplotlib (extra `report`)."""
