"""What takes records and events from the broker and does what they ask for. It knows the words, no engine."""
