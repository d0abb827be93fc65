"""Stage one: a masked autoencoder over unlabeled faces, on any number of ranks."""
