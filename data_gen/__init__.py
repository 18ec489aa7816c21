"""What turns outside data into a frame store: readers, curation, procedural scenes, frozen suites, inspection."""
