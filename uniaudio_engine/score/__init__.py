"""Scores to sing: text, MIDI and MusicXML."""
