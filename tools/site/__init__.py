"""The documentation site: pages collected from the repository, and the Sphinx extension that builds them."""
