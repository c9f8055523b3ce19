"""LoRAs: where they come from, that they are what they say, and how they get into the model and out again."""
