"""Clips of frames: finding, pairing and checking them, making LQ clips from GT, cutting clips out of videos."""
