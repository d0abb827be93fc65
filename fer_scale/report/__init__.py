"""`fer-scale report`: one HTML page about runs, side by side, that needs no network and no other file."""
