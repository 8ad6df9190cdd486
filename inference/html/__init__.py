"""Reports of runs, indexes of many runs, and the latent explorer, as HTML pages."""
